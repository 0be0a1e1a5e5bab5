//! The pages in a real browser: opened, typed into, filtered, bookmarked, edited, by pointer and by keyboard, and compared with
//! the store. With `LM_SAES_SHOTS` naming a folder, pictures are kept there.

use crate::{
    browser::Browser,
    site::{self, HOSTILE, Server},
};
use lm_saes::store::{DictionaryKey, FeatureFilter, FeatureQuery, SortBy, Store};
use serde_json::{Value, json};

/// A feature with contexts, not too rare.
fn lively(store: &dyn Store) -> u32 {
    let filter = FeatureFilter { alive: true, min_act_times: Some(30), ..FeatureFilter::default() };
    let query = FeatureQuery { filter, sort: SortBy::MaxAct, descending: true, offset: 0, limit: 1 };
    store.features(&site::quickstart(), "default", &query).unwrap().features[0].index
}

#[test]
fn a_reader_finds_a_feature_and_sees_what_the_store_holds() {
    let Some(browser) = Browser::open(1280, 900, false) else { return };
    let trained = site::trained();
    let server = Server::start(&trained.store, &["--runs", &trained.dir.display().to_string()]);
    let at = |path: &str| format!("http://{}{path}", server.address);
    let store = site::stored(&trained.store);
    let key = site::quickstart();

    browser.go(&at("/"));
    browser.shot("dictionaries");
    browser.click(".cards a");
    browser.until("document.querySelector('#scatter').dataset.points");
    let overview = store.overview(&key, "default").unwrap().unwrap();
    assert_eq!(
        browser.eval("document.querySelector('#scatter').dataset.points"),
        overview.alive().to_string()
    );
    browser.shot("dictionary");

    // The filter.
    browser.type_into("#filter [name=min_max]", "4");
    browser.click("#filter button");
    browser.until("location.search.includes('min_max=4')");
    assert!(!browser.url().contains("max_max"), "empty fields are not sent: {}", browser.url());
    let filter = FeatureFilter { alive: true, min_max_act: Some(4.0), ..FeatureFilter::default() };
    let query = FeatureQuery { filter, limit: 25, ..FeatureQuery::default() };
    let found = store.features(&key, "default", &query).unwrap();
    assert_eq!(browser.text("#total").replace(' ', ""), found.total.to_string());
    let shown =
        browser.eval("[...document.querySelectorAll('.features .index')].map(a => Number(a.textContent))");
    let known: Vec<u32> = found.features.iter().map(|f| f.index).collect();
    assert_eq!(shown, json!(known));

    // A feature: every token of every context, and its colour.
    let index = lively(&*store);
    let f = store.feature(&key, "default", index).unwrap().unwrap();
    browser.go(&at(&format!("/d/quickstart/f/{index}")));
    let tokens = browser.eval(
        "[...document.querySelectorAll('article.sample')].map(s => [...s.querySelectorAll('i')].map(i => Number(i.dataset.a ?? 0)))",
    );
    let sampling = &f.analysis.samplings[0];
    assert_eq!(tokens.as_array().unwrap().len(), sampling.samples.len());
    for (shown, sample) in tokens.as_array().unwrap().iter().zip(&sampling.samples) {
        let context = f.context(sample.context).unwrap();
        assert_eq!(shown.as_array().unwrap().len(), context.texts.len());
        for (at, act) in shown.as_array().unwrap().iter().enumerate() {
            let known =
                sample.acts.iter().find(|(p, _)| *p as usize == at).map_or(0.0, |(_, v)| f64::from(*v));
            let act = act.as_f64().unwrap();
            assert!((act - known).abs() <= 0.006 * known.abs().max(1.0), "{act} {known}");
        }
    }
    let peak = sampling.samples[0].peak().unwrap();
    browser.point_at(&format!(
        "#s0 i:not(.x)[data-a=\"{}\"]",
        browser.eval(&format!("document.querySelectorAll('#s0 i')[{}].dataset.a", peak.0)).as_str().unwrap()
    ));
    browser.until("!document.querySelector('#tip').hidden");
    // The first token with the rounded activation of the peak is under the pointer; the tip says both.
    let tip = browser.text("#tip");
    let said = |label: &str| -> f64 {
        let line =
            tip.lines().find_map(|l| l.strip_prefix(label)).unwrap_or_else(|| panic!("{label}: {tip}"));
        line.trim().parse().unwrap()
    };
    assert!((said("activation") - f64::from(peak.1)).abs() <= 0.006 * f64::from(peak.1).max(1.0), "{tip}");
    let under = said("position") as u32 - 1;
    assert!(
        sampling.samples[0].acts.iter().any(|(at, act)| *at == under && (act - peak.1).abs() < 0.01),
        "{tip}"
    );
    browser.shot("feature");
    // Whole contexts by key, and the maximum of the next one.
    assert_eq!(browser.eval("document.querySelectorAll('.sample.open').length"), 0);
    browser.press("x");
    browser.until("document.querySelectorAll('.sample.open').length > 0");
    browser.press("m");
    browser.until("document.querySelector('#s0 .found')");
    assert_eq!(
        browser.eval("[...document.querySelectorAll('#s0 i')].findIndex(i => i.matches('.found'))"),
        peak.0
    );
    // Another sampling without a new page.
    browser.eval("(window.stays = true)");
    browser.click("#tabs a:not([aria-current])");
    browser.until("location.search.includes('sampling=')");
    browser.until("document.querySelector('#tabs a[aria-current]').href === location.href");
    assert_eq!(browser.eval("window.stays"), true);

    // From feature to feature by keyboard.
    let next = at(&format!("/d/quickstart:quickstart/f/{}", index + 1));
    browser.press("j");
    browser.wait("the next feature", || browser.url() == next);
    browser.press("k");
    browser.wait("the previous feature", || browser.url().ends_with(&format!("/f/{index}")));
    browser.press("r");
    browser.wait("a random feature", || !browser.url().ends_with(&format!("/f/{index}")));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_reader_writes_bookmarks_and_lists() {
    let Some(browser) = Browser::open(1280, 900, true) else { return };
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &["--token", "sesame"]);
    let at = |path: &str| format!("http://{}{path}", server.address);
    let store = site::stored(&path);
    let feature = |i: u32| store.feature(&site::lorsa(), "default", i).unwrap().unwrap();
    browser.go(&at("/d/default:lorsa%2Fl6/f/7"));
    browser.eval("localStorage.setItem('token', 'sesame')");

    browser.press("e");
    browser.type_into("#editor textarea", "small <b>boats</b>");
    browser.click("#editor button");
    browser.wait("the explanation in the store", || feature(7).interpretation.is_some());
    assert_eq!(feature(7).interpretation.unwrap().text, "small <b>boats</b>");
    browser.until("document.querySelector('#editor').hidden");
    assert_eq!(browser.text("#says"), "small <b>boats</b>");

    browser.press("b");
    browser.wait("the bookmark", || feature(7).bookmark.is_some());
    browser.type_into("#bookmark [name=tags]", "boats, water");
    browser.type_into("#bookmark [name=notes]", "to be checked");
    browser.click("#bookmark form button");
    browser.wait("its tags", || feature(7).bookmark.is_some_and(|b| b.tags == ["boats", "water"]));
    assert_eq!(feature(7).bookmark.unwrap().notes.as_deref(), Some("to be checked"));
    browser.type_into("#tolist input", "vessels");
    browser.click("#tolist button");
    browser.wait("the list", || store.lists().unwrap().iter().any(|l| l.name == "vessels"));

    // Attention: the sources of the token pointed at.
    browser.point_at("#s0 .h12");
    browser.until("document.querySelectorAll('#s0 [class*=z]').length === 2");
    assert_eq!(browser.eval("[...document.querySelectorAll('#s0 i')].findIndex(i => i.matches('.z6'))"), 10);
    browser.shot("dark_feature");

    browser.go(&at("/bookmarks"));
    assert_eq!(browser.text("#total"), "2");
    browser.shot("dark_bookmarks");
    browser.click(".unmark");
    browser.wait("one less", || store.bookmarks(None, 0, 10).unwrap().1 == 1);
    browser.until("document.querySelector('#total').textContent === '1'");
    browser.go(&at("/list?name=vessels"));
    browser.click(".unlist");
    browser.wait("an empty list", || {
        store.lists().unwrap().iter().any(|l| l.name == "vessels" && l.features.is_empty())
    });

    // Search finds the explanation.
    browser.go(&at("/"));
    browser.press("/");
    browser.type_into("#find", "boats\u{e007}");
    browser.until("location.pathname === '/search'");
    assert_eq!(browser.text("#total"), "1");
    assert_eq!(browser.text(".hits mark"), "boats");
    browser.shot("dark_search");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn keys_turn_the_theme_open_the_help_and_lead_to_the_dictionary() {
    let Some(browser) = Browser::open(1280, 900, false) else { return };
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    browser.go(&format!("http://{}/d/default:lorsa%2Fl6/f/7", server.address));
    let ground = || browser.eval("getComputedStyle(document.body).backgroundColor");
    let light = ground();
    browser.press("t");
    browser.until("document.documentElement.dataset.theme === 'dark'");
    let dark = ground();
    assert_ne!(light, dark);
    browser.press("d");
    browser.wait("the dictionary", || browser.url().ends_with("/d/default:lorsa%2Fl6"));
    assert_eq!(ground(), dark, "the choice stays from page to page");
    browser.press("t");
    browser.until("document.documentElement.dataset.theme === 'light'");
    assert_eq!(ground(), light);
    browser.press("?");
    browser.until("document.querySelector('#help').open");
    for key in ["next", "previous", "random", "bookmark", "explanation"] {
        assert!(browser.text("#help").to_lowercase().contains(key), "the help names {key}");
    }
    // Nothing but this server was asked for anything, by pages that are not the browser's own.
    let requests: Vec<String> =
        browser.requests().into_iter().filter(|r| !r.starts_with("chrome://")).collect();
    assert!(!requests.is_empty());
    let own = format!("http://{}/", server.address);
    assert!(requests.iter().all(|r| r.starts_with(&own) || r.starts_with("data:")), "{requests:?}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn hostile_text_is_shown_and_does_not_run() {
    let Some(browser) = Browser::open(1280, 900, false) else { return };
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &[]);
    browser.go(&format!("http://{}/", server.address));
    browser.eval(
        "[...document.querySelectorAll('.cards a')].find(a => a.textContent.includes('script')).click()",
    );
    browser.until("document.querySelector('.features')");
    assert!(browser.text("h1").contains("<script>"));
    browser.click(".features .index");
    browser.until("document.querySelector('#contexts')");
    let shown = browser.eval("document.querySelectorAll('#s0 i')[40].textContent");
    assert_eq!(shown, HOSTILE);
    for path in ["/bookmarks", "/lists", "/search?q=rivers", "/admin"] {
        browser.go(&format!("http://{}{path}", server.address));
        assert_eq!(browser.eval("window.hacked ?? null"), Value::Null, "{path}");
        assert_eq!(browser.eval("document.querySelectorAll('img').length"), 0, "{path}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn typed_text_shows_the_features_the_api_names() {
    let Some(browser) = Browser::open(1280, 1000, false) else { return };
    let trained = site::trained();
    let server = Server::start(&trained.store, &[]);
    browser.go(&format!("http://{}/d/quickstart/infer", server.address));
    let text = "Then the captain went to the river.";
    browser.type_into("#live textarea", text);
    browser.click("#live button");
    browser.until("document.querySelectorAll('#found li').length > 0");
    let typed = browser
        .eval("[...document.querySelectorAll('#tokens i:not(.out)')].map(i => i.textContent).join('')");
    assert_eq!(typed.as_str().unwrap().trim(), text);
    browser.click("#tokens i:last-child");
    browser.until("document.querySelector('#tokens .chosen')");
    let api = crate::http::post(&server.address, "/api/d/quickstart/infer", &json!({ "text": text })).json();
    let last = api["tokens"].as_array().unwrap().last().unwrap()["features"].clone();
    let known: Vec<Value> = last.as_array().unwrap().iter().map(|f| f[0].clone()).collect();
    let shown =
        browser.eval("[...document.querySelectorAll('#found li')].map(l => Number(l.dataset.feature))");
    assert_eq!(shown, json!(known));
    browser.shot("infer");
    browser.click("#found .index");
    browser.until("document.querySelector('#try')");
    browser.type_into("#try textarea", text);
    browser.click("#try button");
    browser.until("document.querySelectorAll('#tried i').length > 3");
    let strongest = last[0][1].as_f64().unwrap();
    let shown = browser.eval("[...document.querySelectorAll('#tried i')].at(-1).dataset.a");
    assert!((shown.as_str().unwrap().parse::<f64>().unwrap() - strongest).abs() < 0.01 * strongest.max(1.0));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_rectangle_drawn_in_the_scatter_lists_the_features_inside_and_a_click_opens_one() {
    let Some(browser) = Browser::open(1280, 900, false) else { return };
    let trained = site::trained();
    let server = Server::start(&trained.store, &[]);
    let store = site::stored(&trained.store);
    let key = site::quickstart();
    let analysis = store.analyses(&key).unwrap().remove(0);
    let overview = store.overview(&key, "default").unwrap().unwrap();
    let page = format!("http://{}/d/quickstart", server.address);
    let opened = || {
        browser.go(&page);
        browser.until("document.querySelector('#scatter').dataset.points");
        let side = |name: &str| {
            let of = format!("document.querySelector('#scatter canvas').getBoundingClientRect().{name}");
            browser.eval(&of).as_f64().unwrap()
        };
        (side("left"), side("top"), side("width"), side("height"))
    };
    // The whole plot, then its right half and its upper half: the density and the maximum where they were drawn.
    let (x, y, wide, high) = opened();
    for (what, from, to) in [
        ("all", (0.0, 0.0), (1.0, 1.0)),
        ("the denser ones", (0.55, 0.0), (1.0, 1.0)),
        ("the stronger ones", (0.0, 0.0), (1.0, 0.5)),
    ] {
        opened();
        // Inside of the axes, which take 46 pixels on the left and 32 below.
        let place = |(a, b): (f64, f64)| (x + 47.0 + a * (wide - 59.0), y + 9.0 + b * (high - 42.0));
        browser.drag(place(from), place(to));
        browser.until("location.search.includes('min_percent=')");
        let bound = |name: &str| {
            let of = format!("new URLSearchParams(location.search).get('{name}')");
            browser.eval(&of).as_str().unwrap().parse::<f64>().unwrap()
        };
        let (low, most) = (bound("min_percent"), bound("max_percent"));
        let (weak, strong) = (bound("min_max"), bound("max_max"));
        let inside = overview.act_times.iter().zip(&overview.max_acts).filter(|&(&times, &max)| {
            let percent = 100.0 * f64::from(times) / analysis.n_analyzed_tokens as f64;
            times > 0 && (low..=most).contains(&percent) && (weak..=strong).contains(&f64::from(max))
        });
        let (shown, inside) = (browser.text("#total").replace(' ', ""), inside.count());
        assert_eq!(shown, inside.to_string(), "{what}");
        match what {
            "all" => assert_eq!(inside, overview.alive()),
            _ => assert!(inside > 0 && inside < overview.alive(), "{what}: {inside}"),
        }
    }
    // A point under the pointer says which feature it is, and opens it.
    let (x, y, wide, high) = opened();
    let found = (0..400).find_map(|i| {
        let at = (
            x + 47.0 + f64::from(i % 20) / 20.0 * (wide - 59.0),
            y + 9.0 + f64::from(i / 20) / 20.0 * (high - 42.0),
        );
        browser.move_to(at);
        let tip = browser
            .eval("document.querySelector('#tip').hidden ? '' : document.querySelector('#tip').textContent");
        let index = tip.as_str()?.strip_prefix("feature ")?.lines().next()?.parse::<u32>().ok()?;
        Some((at, index, tip.as_str()?.to_owned()))
    });
    let (at, index, tip) = found.expect("a point somewhere");
    let max = overview.max_acts[index as usize];
    assert!(tip.contains("maximum") && tip.contains(&format!("{max:.3}")[..4]), "{tip}: {max}");
    browser.drag(at, at);
    browser.wait("the feature's page", || browser.url().ends_with(&format!("/f/{index}")));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn administration_renames_and_removes_after_the_name_was_typed() {
    let Some(browser) = Browser::open(1280, 900, true) else { return };
    let (_dir, path) = site::made_up();
    let server = Server::start(&path, &["--token", "sesame"]);
    let store = site::stored(&path);
    browser.go(&format!("http://{}/admin", server.address));
    browser.eval("localStorage.setItem('token', 'sesame')");
    assert_eq!(browser.text("#totals div:first-child dd"), "4");
    browser.shot("dark_admin");
    let raw = "form[data-api='/api/d/default:raw']";
    browser.type_into(&format!("{raw} [name=name]"), "cooked");
    browser.click(&format!("{raw} button"));
    let cooked = DictionaryKey::new("cooked", "default");
    browser.wait("the new name", || store.dictionary(&cooked).unwrap().is_some());
    browser.until("document.querySelector('form[data-api=\"/api/d/default:cooked\"]')");

    let form = "form[data-api='/api/d/default:cooked/remove']";
    let button = format!("document.querySelector(\"{form} button\").disabled");
    assert_eq!(browser.eval(&button), true);
    browser.type_into(&format!("{form} input"), "raw");
    assert_eq!(browser.eval(&button), true, "another name does not do");
    browser.type_into(&format!("{form} input"), "cooked");
    assert_eq!(browser.eval(&button), false);
    browser.click(&format!("{form} button"));
    browser.wait("one dictionary less", || store.dictionary(&cooked).unwrap().is_none());
    browser.until("document.querySelector('#totals dd').textContent === '3'");
    // A name that is taken is refused in words, and nothing changes.
    let lorsa = "form[data-api='/api/d/default:lorsa%2Fl6']";
    store.put_dictionary(&site::record(&cooked)).unwrap();
    browser.type_into(&format!("{lorsa} [name=name]"), "cooked");
    browser.click(&format!("{lorsa} button"));
    browser.until("document.querySelector('#said').textContent.includes('already')");
    assert!(store.dictionary(&site::lorsa()).unwrap().is_some());
    assert!(browser.complaints().iter().all(|c| c.contains("409")), "{:?}", browser.complaints());
}

#[test]
fn exported_pages_open_without_a_server_and_show_what_the_store_holds() {
    let Some(browser) = Browser::open(1280, 900, false) else { return };
    let trained = site::trained();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("pages");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_lm-saes"))
        .args(["export", "html", "quickstart", "--store", &trained.store, "--out"])
        .arg(&folder)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let store = site::stored(&trained.store);
    let key = site::quickstart();
    let analysis = store.analyses(&key).unwrap().remove(0);
    let overview = store.overview(&key, "default").unwrap().unwrap();
    let features = overview.act_times.len();
    let _ = browser.requests();

    browser.go(&format!("file://{}", folder.join("index.html").display()));
    browser.until("document.querySelectorAll('#rows tr').length > 0");
    assert_eq!(browser.text("#count"), format!("{features} features"));
    browser.eval("(document.querySelector('#sort').value = '2', document.querySelector('#sort').dispatchEvent(new Event('change')))");
    let rows = browser.eval(
        "[...document.querySelectorAll('#rows tr')].slice(0, 50).map(r => [...r.cells].slice(0, 3).map(c => parseFloat(c.textContent)))",
    );
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 50);
    let mut last = f64::INFINITY;
    for row in rows {
        let (i, percent, max) =
            (row[0].as_u64().unwrap() as usize, row[1].as_f64().unwrap(), row[2].as_f64().unwrap());
        assert!((max - f64::from(overview.max_acts[i])).abs() <= 0.0006, "feature {i}: {max}");
        let share = 100.0 * f64::from(overview.act_times[i]) / analysis.n_analyzed_tokens as f64;
        assert!((percent - share).abs() <= 0.006 * share, "feature {i}: {percent} {share}");
        assert!(max <= last, "strongest first");
        last = max;
    }
    browser.shot("exported_list");
    // A search by a token, whose row leads to the feature's page.
    let index = lively(&*store);
    let f = store.feature(&key, "default", index).unwrap().unwrap();
    browser.type_into("#search", &index.to_string());
    browser.until(&format!("document.querySelector('#rows a[href=\"features/{index}.html\"]')"));
    browser.click(&format!("#rows a[href='features/{index}.html']"));
    browser.until("document.querySelector('details')");
    assert_eq!(browser.text("h1"), format!("Feature {index}"));
    let first = &f.analysis.samplings[0].samples[0];
    browser.click("details summary");
    let shown =
        browser.eval("[...document.querySelectorAll('details[open] p mark')].map(m => Number(m.title))");
    let shown = shown.as_array().unwrap();
    assert_eq!(shown.len(), first.acts.len());
    for (shown, (_, known)) in shown.iter().zip(&first.acts) {
        assert!((shown.as_f64().unwrap() - f64::from(*known)).abs() <= 0.0006, "{shown} {known}");
    }
    let text = browser.eval("document.querySelector('details[open] p').textContent");
    let known: String = f.context(first.context).unwrap().texts.concat();
    assert_eq!(text.as_str().unwrap(), known.replace('\n', "⏎").replace('\t', "⇥"));
    let near = browser.eval("[...document.querySelectorAll('.cards div')].find(d => d.textContent.includes('most similar')).querySelectorAll('a').length");
    assert_eq!(near.as_u64().unwrap() as usize, f.analysis.neighbours.len());
    browser.shot("exported_feature");
    let wide = browser.eval("document.documentElement.scrollWidth - innerWidth");
    assert!(wide.as_i64().unwrap() <= 0, "the page is wider than its window");
    browser.press("j");
    browser.wait("the next feature", || browser.url().ends_with(&format!("/{}.html", index + 1)));

    let asked = browser.requests();
    assert!(asked.iter().any(|u| u.ends_with("features.js")), "{asked:?}");
    let inside = format!("file://{}/", folder.display());
    let outside: Vec<&String> = asked.iter().filter(|u| !u.starts_with(&inside)).collect();
    assert!(outside.is_empty(), "asked for {outside:?}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn curves_follow_a_run_that_is_writing() {
    let Some(browser) = Browser::open(1280, 900, false) else { return };
    let trained = site::trained();
    let (dir, store) = site::made_up();
    let runs = dir.path().join("runs");
    let to = runs.join("mine/metrics.jsonl");
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let written = std::fs::read_to_string(trained.dir.join("sae/metrics.jsonl")).unwrap();
    std::fs::write(&to, &written).unwrap();
    let server = Server::start(&store, &["--runs", &runs.display().to_string()]);
    browser.go(&format!("http://{}/runs", server.address));
    browser.click(".hits a");
    browser.until("document.querySelectorAll('.curve path').length > 3");
    let first: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    let metrics = first.as_object().unwrap().len() - 2;
    assert!(browser.eval("document.querySelectorAll('.curve').length").as_u64().unwrap() as usize >= metrics);
    browser.shot("run");
    let more = "{\"step\":100000,\"tokens\":9,\"losses/brand_new\":0.25}\n";
    std::fs::write(&to, format!("{written}{more}")).unwrap();
    browser.until("document.querySelector('[data-name=\"losses/brand_new\"] b')");
    assert_eq!(browser.text("[data-name=\"losses/brand_new\"] b"), "0.250");
    // A run that starts again.
    std::fs::write(&to, more).unwrap();
    browser.until("document.querySelectorAll('.curve').length === 1");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// What README shows: an overview, a feature, and a feature on a phone in the dark, each whole in its window.
#[test]
fn three_pictures_of_the_pages_are_taken_in_small_windows() {
    let trained = site::trained();
    let server = Server::start(&trained.store, &[]);
    let store = site::stored(&trained.store);
    let filter =
        FeatureFilter { min_act_times: Some(40), max_act_times: Some(300), ..FeatureFilter::default() };
    let query = FeatureQuery { filter, sort: SortBy::MaxAct, descending: true, offset: 0, limit: 1 };
    let index = store.features(&site::quickstart(), "default", &query).unwrap().features[0].index;
    let feature = format!("/d/quickstart/f/{index}");
    for (name, wide, high, dark, path, there) in [
        ("readme_overview", 1080, 640, false, "/d/quickstart", "#scatter[data-points]"),
        ("readme_feature", 1080, 640, false, feature.as_str(), "#contexts"),
        ("readme_phone", 390, 640, true, feature.as_str(), "#contexts"),
    ] {
        let Some(browser) = Browser::open(wide, high, dark) else { return };
        browser.go(&format!("http://{}{path}", server.address));
        browser.until(&format!("document.querySelector('{there}')"));
        let ground = browser.eval("getComputedStyle(document.body).backgroundColor");
        let light = ground.as_str().unwrap().contains("246");
        assert_eq!(light, !dark, "{name}: the ground is {ground}");
        let shown = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(shown <= u64::from(wide), "{name} is {shown} wide in a window of {wide}");
        browser.shot(name);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn pages_fit_a_phone() {
    let Some(browser) = Browser::open(390, 844, false) else { return };
    let trained = site::trained();
    let server = Server::start(&trained.store, &["--runs", &trained.dir.display().to_string()]);
    let index = lively(&*site::stored(&trained.store));
    let feature = format!("/d/quickstart/f/{index}");
    for (name, path) in [
        ("phone_dictionaries", "/"),
        ("phone_dictionary", "/d/quickstart"),
        ("phone_feature", feature.as_str()),
        ("phone_infer", "/d/quickstart/infer"),
        ("phone_bookmarks", "/bookmarks"),
        ("phone_run", "/run?name=sae"),
        ("phone_admin", "/admin"),
        ("phone_api", "/api"),
        ("phone_embed", &format!("/embed{feature}")),
    ] {
        browser.go(&format!("http://{}{path}", server.address));
        browser.until("document.readyState === 'complete'");
        let wide = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= 390, "{path} is {wide} wide on a phone of 390");
        browser.shot(name);
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
