//! What must not happen: files outside, text that runs, changes from other sites, requests without end.

use crate::{
    http::{Answer, get, post, raw, request},
    site::{self, HOSTILE, Server},
};
use lm_saes::store::Store;
use serde_json::json;
use std::{
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

const EXPLANATION: &str = "/api/d/default:lorsa%2Fl6/f/1/explanation";

fn explanation(store: &dyn Store, feature: u32) -> Option<String> {
    store.interpretations(&site::lorsa()).unwrap().get(&feature).map(|i| i.text.clone())
}

/// Every page and answer of the made-up store that shows text from outside.
fn everywhere() -> Vec<String> {
    let encode = |text: &str| -> String { text.bytes().map(|b| format!("%{b:02X}")).collect() };
    let hostile = encode(&format!("{}:{HOSTILE}", site::CLIMBING));
    let sampling = encode(HOSTILE);
    vec![
        "/".into(),
        format!("/d/{hostile}"),
        format!("/d/{hostile}/f/3"),
        format!("/d/{hostile}/f/3?sampling={sampling}"),
        format!("/d/{hostile}/infer"),
        format!("/embed/d/{hostile}/f/3"),
        "/d/default:lorsa%2Fl6/f/3".into(),
        format!("/search?q={sampling}"),
        "/search?q=rivers".into(),
        "/bookmarks".into(),
        "/lists".into(),
        format!("/list?name={sampling}"),
        format!("/list?name=no{sampling}"),
        format!("/d/no{hostile}"),
        format!("/d/{hostile}/f/3?analysis={sampling}"),
        format!("/d/default:lorsa%2Fl6?sort={sampling}"),
        format!("/run?name={sampling}"),
        format!("/assets/{sampling}"),
    ]
}

#[test]
fn text_from_outside_is_never_markup() {
    let (_dir, store) = site::made_up();
    let server = Server::start(&store, &[]);
    for path in everywhere() {
        let answer = get(&server.address, &path);
        assert!([200, 400, 404].contains(&answer.status), "{path}: {}", answer.status);
        let page = answer.text();
        for raw in ["<script>window", "<img src=x", "</i></p><script"] {
            assert!(!page.contains(raw), "{path} holds {raw}");
        }
        if answer.status == 200 && !path.starts_with("/search?q=%") {
            assert!(page.contains("&lt;script&gt;window"), "{path} shows the text itself");
        }
    }
}

#[test]
fn every_answer_keeps_the_browser_to_this_server() {
    let (_dir, store) = site::made_up();
    let server = Server::start(&store, &[]);
    for path in ["/", "/d/default:raw", "/api/dictionaries", "/assets/base.js", "/nowhere", "/api/d/nowhere"]
    {
        let answer = get(&server.address, path);
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'self';"), "{path}: {policy}");
        assert!(policy.ends_with("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    let embedded = get(&server.address, "/embed/d/default:lorsa%2Fl6/f/3");
    let policy = embedded.header("content-security-policy").unwrap_or_default();
    assert!(policy.contains("default-src 'self'") && policy.ends_with("frame-ancestors *"), "{policy}");
    assert_eq!(embedded.header("x-frame-options"), None);
    let page = get(&server.address, "/d/default:lorsa%2Fl6/f/3").text();
    for foreign in ["http://", "https://", "style=", "onclick=", "javascript:"] {
        assert!(
            !page.replace(&HOSTILE.replace('<', "&lt;"), "").contains(foreign),
            "the page holds {foreign}"
        );
    }
}

#[test]
fn other_names_for_this_machine_are_refused() {
    let (_dir, store) = site::made_up();
    let server = Server::start(&store, &[]);
    let asked = |host: &str| request(&server.address, "GET", "/api/dictionaries", &[("host", host)], b"");
    for host in ["localhost", "localhost:1234", "127.0.0.1:80", "[::1]:80"] {
        assert_eq!(asked(host).status, 200, "{host}");
    }
    for host in
        ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "192.168.1.7", "[::1]x"]
    {
        let answer = asked(host);
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.json()["error"].as_str().unwrap().contains("localhost"), "{host}");
    }
    assert_eq!(raw(&server.address, b"GET / HTTP/1.0\r\n\r\n").status, 421);
    let absolute = b"GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(&server.address, absolute).status, 421);
}

#[test]
fn changes_come_from_our_own_pages_or_from_scripts_and_nowhere_else() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let store = site::stored(&path);
    let own = format!("http://{}", server.address);
    let try_with = |headers: &[(&str, &str)]| -> Answer {
        request(&server.address, "POST", EXPLANATION, headers, b"{\"text\":\"forged\"}")
    };
    let json = ("content-type", "application/json");
    for (headers, status) in [
        (vec![json, ("origin", "http://evil.example")], 403),
        (vec![json, ("origin", "null")], 403),
        (vec![json, ("origin", "http://localhost:1")], 403),
        (vec![json, ("origin", &own), ("sec-fetch-site", "cross-site")], 403),
        (vec![json, ("origin", &own), ("sec-fetch-site", "same-site")], 403),
        (vec![("content-type", "text/plain"), ("origin", &own)], 415),
        (vec![("content-type", "application/x-www-form-urlencoded")], 415),
        (vec![], 415),
    ] {
        assert_eq!(try_with(&headers).status, status, "{headers:?}");
        assert_eq!(explanation(&*store, 1), None, "{headers:?}");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        assert!(request(&server.address, method, EXPLANATION, &[json], b"{}").status >= 400, "{method}");
    }
    assert_eq!(explanation(&*store, 1), None);
    assert_eq!(try_with(&[json, ("origin", &own), ("sec-fetch-site", "same-origin")]).status, 200);
    assert_eq!(explanation(&*store, 1).as_deref(), Some("forged"));
}

#[test]
fn a_token_is_needed_for_every_change_where_others_can_reach_the_server() {
    let (_dir, path) = site::made_up();
    let open = Server::start(&path, &["--host", "0.0.0.0"]);
    let said = open.said.join("\n");
    let made_up = said.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(made_up.len(), 32, "{said}");
    let given = Server::start(&path, &["--token", "open sesame"]);
    for (server, token) in [(&open, made_up.as_str()), (&given, "open sesame")] {
        let body = json!({ "text": token });
        for path in [
            EXPLANATION,
            "/api/d/default:lorsa%2Fl6/f/1/bookmark",
            "/api/d/default:lorsa%2Fl6/infer",
            "/api/lists",
            "/api/lists/members",
            "/api/d/default:lorsa%2Fl6",
            "/api/d/default:lorsa%2Fl6/remove",
            "/api/d/default:lorsa%2Fl6/analyses/remove",
            "/api/runs",
        ] {
            assert_eq!(post(&server.address, path, &body).status, 401, "{path}");
        }
        let shown = |shown: &str| {
            let bearer = format!("Bearer {shown}");
            let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
            request(&server.address, "POST", EXPLANATION, &headers, body.to_string().as_bytes()).status
        };
        assert_eq!(shown(""), 401);
        assert_eq!(shown(&token[1..]), 401);
        assert_eq!(shown(token), 200);
        assert_eq!(get(&server.address, "/api/dictionaries").status, 200, "reading is open");
    }
    let other = request(&open.address, "GET", "/", &[("host", "workstation.example")], b"");
    assert_eq!(other.status, 200, "any name may lead to a server that others can reach");
    let store = site::stored(&path);
    assert_eq!(explanation(&*store, 1).as_deref(), Some("open sesame"));
}

#[test]
fn no_address_leads_to_a_file_outside() {
    let (dir, store) = site::made_up();
    let runs = dir.path().join("runs");
    std::fs::create_dir_all(runs.join("good")).unwrap();
    std::fs::write(runs.join("good/metrics.jsonl"), "{\"step\":1,\"loss\":2.5}\n").unwrap();
    std::fs::create_dir_all(dir.path().join("outside")).unwrap();
    std::fs::write(dir.path().join("outside/metrics.jsonl"), "{\"secret\":1}\n").unwrap();
    let server = Server::start(&store, &["--runs", &runs.display().to_string()]);
    let good = get(&server.address, "/api/run?name=good").json();
    assert_eq!(good["records"][0]["loss"], 2.5);
    for path in [
        "/assets/..%2f..%2fCargo.toml",
        "/assets/../../Cargo.toml",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/assets//etc/passwd",
        "/d/..%2f..%2fetc%2fpasswd",
        "/run?name=../outside",
        "/api/run?name=..%2Foutside",
        "/api/run?name=good/../../outside",
        "/api/run?name=/etc",
        "/api/run?name=good%00",
    ] {
        let answer = get(&server.address, path);
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.text().contains("secret") && !answer.text().contains("root:"), "{path}");
    }
}

#[test]
fn requests_that_are_too_large_or_make_no_sense_are_refused_in_words() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let large = json!({ "text": "x".repeat(300 << 10) });
    assert_eq!(post(&server.address, EXPLANATION, &large).status, 413);
    let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "y".repeat(100 << 10));
    assert!([0, 400, 431].contains(&raw(&server.address, head.as_bytes()).status));
    assert!([0, 400].contains(&raw(&server.address, b"\x16\x03\x01 this is no HTTP\r\n\r\n").status));
    let refused = |path: &str, body: serde_json::Value, status: u16, why: &str| {
        let answer = post(&server.address, path, &body);
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, status, "{path} {error}");
        assert!(error.contains(why), "{path}: {error}");
    };
    let bookmark = "/api/d/default:lorsa%2Fl6/f/1/bookmark";
    refused(EXPLANATION, json!({ "text": "x".repeat(30_000) }), 400, "at most 20000");
    refused(EXPLANATION, json!({ "words": "x" }), 400, "words");
    refused("/api/d/default:lorsa%2Fl6/f/12/explanation", json!({ "text": "x" }), 404, "features 0 to 11");
    refused("/api/d/nothing/f/1/explanation", json!({ "text": "x" }), 404, "nothing");
    refused(bookmark, json!({ "bookmarked": true, "tags": ["x".repeat(201)] }), 400, "a tag");
    let many: Vec<String> = (0..40).map(|i| i.to_string()).collect();
    refused(bookmark, json!({ "bookmarked": true, "tags": many }), 400, "40 tags");
    refused("/api/lists", json!({ "name": " " }), 400, "needs a name");
    refused("/api/lists", json!({ "name": "none", "remove": true }), 404, "none");
    for (path, status, why) in [
        ("/api/d/default:lorsa%2Fl6/f/12", 404, "features 0 to 11"),
        ("/api/d/default:lorsa%2Fl6/features?sort=size", 400, "index, density or max"),
        ("/api/d/default:lorsa%2Fl6/features?min_max=many", 400, "min_max is a number"),
        ("/api/d/default:raw/features", 404, "no analysis yet"),
        ("/api/d/default:lorsa%2Fl6?x=%FF", 200, ""),
        ("/api/run?name=x", 404, "--runs"),
    ] {
        let answer = get(&server.address, path);
        assert_eq!(answer.status, status, "{path}");
        assert!(
            answer.json()["error"].as_str().unwrap_or_default().contains(why),
            "{path}: {}",
            answer.text()
        );
    }
    for path in
        ["/d/default:lorsa%2Fl6/f/-1", "/d/default:lorsa%2Fl6/f/99999999999", "/d/default:lorsa%2Fl6?page=-1"]
    {
        assert_eq!(get(&server.address, path).status, 400, "{path}");
    }
    let far = get(&server.address, "/d/default:lorsa%2Fl6?page=18446744073709551615");
    assert_eq!(far.status, 200);
}

#[test]
fn a_silent_client_is_sent_away_and_does_not_keep_others_waiting() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let began = Instant::now();
    let mut silent: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(&server.address).expect("room for many")).collect();
    assert_eq!(get(&server.address, "/api/dictionaries").status, 200);
    let first = &mut silent[0];
    first.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut rest = Vec::new();
    let end = first.read_to_end(&mut rest);
    assert!(end.is_ok(), "still open after {:?}", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(10), "a slow client has some time");
}
