//! What pages and the API say is what the store holds, and changes arrive in it.

use crate::{
    http::{get, post},
    site::{self, Server},
};
use lm_saes::store::{DictionaryKey, Feature, FeatureRef};
use lm_saes_tests::wide;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LORSA: &str = "default:lorsa%2Fl6";

#[test]
fn a_feature_page_shows_what_the_store_has_and_leaves_out_what_it_has_not() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let page = get(&server.address, &format!("/d/{LORSA}/f/7")).text();
    for part in [
        "<h1>Feature 7</h1>",
        "0.70 %",
        "data-z=\"[[40,10,0.5000],[40,39,0.2500]]\"",
        "data-peak=\"40\"",
        "top activations",
        "Output tokens",
        "Similar decoders",
        "Fires together with",
        "Decoder by head or layer",
        "/d/default:lorsa%2Fl6/f/6\"",
        "/d/default:lorsa%2Fl6/f/8\"",
        "0.500 to 1.000: 0 tokens",
        "<i class=\"h2\" data-a=\"1.000\"> w1t10⏎</i>",
        "<i class=\"h1 n\" data-a=\"-0.500\"> w1t60⏎</i>",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    let silent = get(&server.address, &format!("/d/{LORSA}/f/4")).text();
    assert!(silent.contains("has never fired"));
    for absent in ["Output tokens", "Similar decoders", "Decoder by head", "<figure"] {
        assert!(!silent.contains(absent), "a silent feature has no {absent}");
    }
    let embedded =
        get(&server.address, &format!("/embed/d/{LORSA}/f/7?samples=1&range=3&plain=1&theme=dark")).text();
    assert_eq!(embedded.matches("<article").count(), 1);
    assert!(
        !embedded.contains("<nav") && !embedded.contains("<h1>") && embedded.contains("data-theme=\"dark\"")
    );
    let other = get(&server.address, &format!("/d/{LORSA}/f/7?analysis=another%20one")).text();
    assert!(other.contains(&format!("/d/{LORSA}/f/8?analysis=another%20one")), "links stay in the analysis");
    assert_eq!(get(&server.address, &format!("/d/{LORSA}/f/7?analysis=none")).status, 404);
}

#[test]
fn every_kind_of_name_has_an_address() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let home = get(&server.address, "/").text();
    let links: Vec<&str> =
        home.split("href=\"").filter_map(|p| p.split('"').next()).filter(|h| h.starts_with("/d/")).collect();
    assert_eq!(links.len(), 4, "{links:?}");
    for link in links {
        assert_eq!(get(&server.address, link).status, 200, "{link}");
    }
    assert_eq!(get(&server.address, "/d/raw").status, 200, "a name that only one series has is enough");
    let jumped = get(&server.address, &format!("/d/{LORSA}/f?i=5"));
    assert_eq!((jumped.status, jumped.header("location")), (303, Some("/d/default:lorsa%2Fl6/f/5")));
    for _ in 0..20 {
        let random = get(&server.address, &format!("/d/{LORSA}/random?min_max=9"));
        let to = random.header("location").unwrap_or_default().to_owned();
        assert!(["9", "10", "11"].iter().any(|i| to.ends_with(&format!("/f/{i}"))), "{to}");
    }
}

#[test]
fn the_api_tells_what_the_store_holds() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let store = site::stored(&path);
    let feature: Feature =
        serde_json::from_value(get(&server.address, &format!("/api/d/{LORSA}/f/3")).json()).unwrap();
    assert_eq!(Some(feature), store.feature(&site::lorsa(), "default", 3).unwrap());
    let overview = get(&server.address, &format!("/api/d/{LORSA}/overview")).json();
    let bytes = get(&server.address, &format!("/api/d/{LORSA}/overview.bin")).body;
    let known = store.overview(&site::lorsa(), "default").unwrap().unwrap();
    assert_eq!(overview["act_times"], json!(known.act_times));
    assert_eq!(overview["max_acts"], json!(known.max_acts));
    assert_eq!(bytes.len(), 12 * 8);
    assert_eq!(bytes[4 * 7..4 * 8], 70u32.to_le_bytes());
    assert_eq!(bytes[4 * (12 + 7)..4 * (12 + 8)], 7f32.to_le_bytes());
    let list = |query: &str| -> (u64, Vec<u64>) {
        let page = get(&server.address, &format!("/api/d/{LORSA}/features?{query}")).json();
        let features = page["features"].as_array().unwrap().iter().map(|f| f["index"].as_u64().unwrap());
        (page["total"].as_u64().unwrap(), features.collect())
    };
    assert_eq!(list(""), (9, vec![1, 2, 3, 5, 6, 7, 9, 10, 11]));
    assert_eq!(list("silent=1&per_page=3&page=2"), (12, vec![3, 4, 5]));
    assert_eq!(list("sort=density&order=desc&per_page=2"), (9, vec![11, 10]));
    // 50 and 70 of 10 000 tokens.
    assert_eq!(list("min_percent=0.5&max_percent=0.7"), (3, vec![5, 6, 7]));
    assert_eq!(list("min_max=10"), (2, vec![10, 11]));
    assert_eq!(list("explained=yes"), (1, vec![3]));
    assert_eq!(get(&server.address, "/api/dictionaries").json().as_array().unwrap().len(), 4);
    let hits = get(&server.address, "/api/search?q=rivers").json();
    assert_eq!(hits.as_array().unwrap().len(), 2);
    let hits = get(&server.address, &format!("/api/search?q=river&d={LORSA}")).json();
    assert_eq!(
        hits.as_array().unwrap().len(),
        9,
        "those that peak on the token, one also by its explanation"
    );
    let docs = get(&server.address, "/api").text();
    for address in ["/api/d/KEY/features", "/api/d/KEY/infer", "/embed/d/KEY/f/INDEX", "/api/lists/members"] {
        assert!(docs.contains(address), "{address} is described");
    }
}

#[test]
fn changes_arrive_in_the_store() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let store = site::stored(&path);
    let at = |feature: u32| FeatureRef { dictionary: site::lorsa(), feature };
    let change = |path: &str, body: Value| {
        let answer = post(&server.address, path, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let feature = |i: u32| store.feature(&site::lorsa(), "default", i).unwrap().unwrap();
    let f = format!("/api/d/{LORSA}/f/3");
    change(&format!("{f}/explanation"), json!({ "text": "  streams and lakes \n" }));
    let said = feature(3).interpretation.unwrap();
    assert_eq!((said.text.as_str(), said.explainer.as_str()), ("streams and lakes", "manual"));
    assert!(said.scores.is_empty(), "scores belonged to the former text");
    change(&format!("{f}/explanation"), json!({ "text": null }));
    assert_eq!(feature(3).interpretation, None);

    change(&format!("{f}/bookmark"), json!({ "bookmarked": true }));
    let first = feature(3).bookmark.unwrap();
    assert!(first.created_at > 1_700_000_000);
    change(
        &format!("{f}/bookmark"),
        json!({ "bookmarked": true, "tags": [" a", "b ", "a", ""], "notes": "look" }),
    );
    change(&format!("{f}/bookmark"), json!({ "bookmarked": true }));
    let second = feature(3).bookmark.unwrap();
    assert_eq!((second.tags, second.notes.as_deref()), (vec!["a".into(), "b".into()], Some("look")));
    assert_eq!(second.created_at, first.created_at);
    assert_eq!(get(&server.address, &format!("/api/bookmarks?d={LORSA}")).json()["total"], 1);
    change(&format!("{f}/bookmark"), json!({ "bookmarked": false }));
    assert_eq!(feature(3).bookmark, None);

    let member = |i: u32, remove: bool| {
        change(
            "/api/lists/members",
            json!({ "list": "rivers", "dictionary": "default:lorsa/l6", "feature": i, "remove": remove }),
        )
    };
    change("/api/lists", json!({ "name": "rivers", "notes": "wet" }));
    for (i, remove) in [(5, false), (2, false), (5, false), (7, false), (2, true)] {
        member(i, remove);
    }
    let lists = store.lists().unwrap();
    let list = lists.iter().find(|l| l.name == "rivers").unwrap();
    assert_eq!((list.notes.as_str(), &list.features), ("wet", &vec![at(5), at(7)]));
    assert_eq!(get(&server.address, "/api/lists").json(), json!(lists));
    change("/api/lists", json!({ "name": "rivers", "remove": true }));
    assert_eq!(store.lists().unwrap().len(), 1);
}

#[test]
fn dictionaries_are_renamed_moved_and_removed_once_their_name_is_repeated() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let store = site::stored(&path);
    let ask = |path: &str, body: Value| {
        let answer = post(&server.address, path, &body);
        (answer.status, answer.json())
    };
    let totals = |name: &str| get(&server.address, "/api/admin").json()[name].as_u64().unwrap();
    assert_eq!((totals("dictionaries"), totals("analyses"), totals("features")), (4, 4, 48));
    let at = format!("/api/d/{LORSA}");
    for (body, status, why) in [
        (json!({ "name": "" }), 400, "needs a name"),
        (json!({ "name": "raw" }), 409, "raw (default) already"),
        (json!({ "path": "nowhere/at/all" }), 400, "nowhere/at/all"),
        (json!({ "title": "x" }), 400, "title"),
        (json!({ "name": "x".repeat(500) }), 400, "at most 400"),
    ] {
        let (got, answer) = ask(&at, body);
        assert_eq!(got, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(why), "{answer}");
    }
    assert!(store.dictionary(&site::lorsa()).unwrap().is_some(), "what was refused changed nothing");

    let (status, answer) = ask(&at, json!({ "name": " second ", "model_name": "gpt2" }));
    assert_eq!((status, &answer["segment"]), (200, &json!("default:second")), "{answer}");
    let new = DictionaryKey::new("second", "default");
    let record = store.dictionary(&new).unwrap().unwrap();
    assert_eq!((record.model_name.as_deref(), record.path.as_str()), (Some("gpt2"), "results/lorsa"));
    assert_eq!(store.dictionary(&site::lorsa()).unwrap(), None);
    assert_eq!(get(&server.address, "/d/default:second/f/7").status, 200);
    assert_eq!(get(&server.address, &format!("/d/{LORSA}/f/7")).status, 404);

    let at = "/api/d/default:second";
    let one = format!("{at}/analyses/remove");
    assert_eq!(ask(&one, json!({ "analysis": "another one", "confirm": "default" })).0, 400);
    assert_eq!(ask(&one, json!({ "analysis": "none", "confirm": "none" })).0, 404);
    assert_eq!(ask(&one, json!({ "analysis": "another one", "confirm": "another one" })).0, 200);
    let left: Vec<String> = store.analyses(&new).unwrap().into_iter().map(|a| a.name).collect();
    assert_eq!(left, ["default"]);
    let (status, answer) = ask(&format!("{at}/remove"), json!({ "confirm": "lorsa/l6" }));
    assert_eq!(status, 400, "{answer}");
    assert!(store.dictionary(&new).unwrap().is_some());
    assert_eq!(ask(&format!("{at}/remove"), json!({ "confirm": "second" })).0, 200);
    assert_eq!(store.dictionary(&new).unwrap(), None);
    assert_eq!(ask(&format!("{at}/remove"), json!({ "confirm": "second" })).0, 404);
    assert_eq!((totals("dictionaries"), totals("analyses")), (3, 2));
}

#[test]
fn runs_are_renamed_and_removed_where_nobody_writes_them() {
    let (dir, store) = site::made_up();
    let runs = dir.path().join("runs");
    let run = |name: &str, age: u64| {
        let folder = runs.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("metrics.jsonl"), "{\"step\":1}\n").unwrap();
        std::fs::write(folder.join("sae_weights.safetensors"), [0; 64]).unwrap();
        let then = std::time::SystemTime::now() - Duration::from_secs(age);
        let file = std::fs::File::options().append(true).open(folder.join("metrics.jsonl")).unwrap();
        file.set_modified(then).unwrap();
    };
    run("a/one", 3600);
    run("a/two", 3600);
    run("busy", 0);
    std::fs::create_dir_all(dir.path().join("outside")).unwrap();
    let server = Server::start(&store, &["--runs", &runs.display().to_string()]);
    let ask = |body: Value| {
        let answer = post(&server.address, "/api/runs", &body);
        (answer.status, answer.json())
    };
    for (body, status) in [
        (json!({ "name": "a/one", "rename": "two" }), 409),
        (json!({ "name": "a/one", "rename": "../../outside/one" }), 409),
        (json!({ "name": "a/one", "confirm": "one" }), 400),
        (json!({ "name": "a/one" }), 400),
        (json!({ "name": "../outside", "confirm": "../outside" }), 404),
        (json!({ "name": "a", "confirm": "a" }), 404),
        (json!({ "name": "busy", "confirm": "busy" }), 409),
    ] {
        let (got, answer) = ask(body.clone());
        assert_eq!(got, status, "{body}: {answer}");
    }
    assert_eq!(ask(json!({ "name": "a/one", "rename": "three" })).0, 200);
    assert!(!runs.join("a/one").exists() && runs.join("a/three/sae_weights.safetensors").exists());
    assert_eq!(ask(json!({ "name": "a/three", "confirm": "a/three" })).0, 200);
    let left: Vec<_> = std::fs::read_dir(runs.join("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["two"]);
    assert!(runs.join("busy").exists());
}

#[test]
fn typed_text_gives_the_activations_that_the_analysis_found() {
    let trained = site::trained();
    let server = Server::start(&trained.store, &[]);
    let store = site::stored(&trained.store);
    let key = site::quickstart();
    let infer = "/api/d/quickstart/infer";
    let alive = store.overview(&key, "default").unwrap().unwrap().act_times;
    let mut compared = 0;
    for index in (0..alive.len() as u32).filter(|&i| alive[i as usize] > 20).step_by(37) {
        let f = store.feature(&key, "default", index).unwrap().unwrap();
        let sample = &f.analysis.samplings[0].samples[0];
        let context = f.context(sample.context).unwrap();
        let bos = usize::from(context.texts.first().is_some_and(|t| t.starts_with('<')));
        let text = context.texts[bos..].concat();
        let answer = post(&server.address, infer, &json!({ "text": text, "feature": index }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let tokens = answer.json()["tokens"].as_array().unwrap().clone();
        let ids: Vec<u32> = tokens.iter().map(|t| t["id"].as_u64().unwrap() as u32).collect();
        if ids != context.ids {
            // A context cut inside a word, or a partial character, is other tokens when typed.
            continue;
        }
        compared += 1;
        for (at, token) in tokens.iter().enumerate() {
            let live = token["features"][0][1].as_f64().unwrap_or(0.0);
            let known =
                sample.acts.iter().find(|(p, _)| *p as usize == at).map_or(0.0, |(_, v)| f64::from(*v));
            assert!(
                (live - known).abs() <= 1e-3 * (1.0 + known.abs()),
                "feature {index} at {at}: {live}, {known}"
            );
        }
    }
    assert!(compared >= 2, "only {compared} contexts could be typed again");
    let all = post(&server.address, infer, &json!({ "text": "The river ran to the sea." })).json();
    for token in all["tokens"].as_array().unwrap() {
        let features = token["features"].as_array().unwrap();
        let counted = token["counts"] == true;
        assert_eq!(features.len(), if counted { 24 } else { 0 }, "top_k of the quickstart");
        for f in features {
            assert!(all["features"][f[0].to_string()]["max_act"].is_number());
        }
    }
    let refused = post(&server.address, infer, &json!({ "text": "" }));
    assert_eq!(refused.status, 422);
    let long = post(&server.address, infer, &json!({ "text": "word ".repeat(2000) }));
    assert!(long.json()["error"].as_str().unwrap().contains("tokens; at most"), "{}", long.text());
}

#[test]
fn without_a_model_inference_says_what_is_missing() {
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    let answer = post(&server.address, &format!("/api/d/{LORSA}/infer"), &json!({ "text": "x" }));
    assert_eq!(answer.status, 422);
    assert!(answer.json()["error"].as_str().unwrap().contains("--model"), "{}", answer.text());
}

#[test]
fn pages_of_a_large_dictionary_take_less_than_100_ms() {
    let dir = tempfile::tempdir().unwrap();
    let path = site::place(&dir.path().join("wide.db"));
    let key = DictionaryKey::new("wide", "default");
    // A server takes its time to be filled, so of one the whole width is asked for by LM_SAES_WIDE.
    let wide_too = std::env::var_os("LM_SAES_WIDE").is_some();
    let (d_sae, contexts) = if path.contains("://") && !wide_too { (2048, 2000) } else { (65_536, 20_000) };
    wide::fill(&*site::stored(&path), &key, d_sae, contexts);
    let server = Server::start(&path, &[]);
    let feature = format!("/d/default:wide/f/{}", d_sae * 3 / 5);
    for (what, address) in [
        ("feature page", feature.as_str()),
        ("overview", "/d/default:wide?sort=density&order=desc&page=40"),
        ("points of the scatter", "/api/d/default:wide/overview.bin"),
        ("dictionaries", "/"),
    ] {
        let mut took: Vec<Duration> = (0..15)
            .map(|_| {
                let began = Instant::now();
                assert_eq!(get(&server.address, address).status, 200);
                began.elapsed()
            })
            .collect();
        // The first includes what is kept for the others. The best of the rest, so that other work on the machine does not decide.
        let first = took.remove(0);
        let best = took.iter().min().copied().unwrap_or_default();
        println!("{d_sae} features x {} contexts: {what} {best:?}, the first time {first:?}", wide::SAMPLES);
        assert!(best < Duration::from_millis(100), "{what}: {best:?}");
    }
}
