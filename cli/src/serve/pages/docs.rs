//! The API, described for those who use it.

use crate::serve::{
    app::App,
    html::{Tab, page},
    net::MAX_BODY,
};
use axum::{
    extract::State,
    response::{Html, IntoResponse, Response},
};
use maud::html;
use std::sync::Arc;

const READ: [(&str, &str); 15] = [
    ("/api/dictionaries", "all dictionaries with their analyses"),
    ("/api/d/KEY", "one of them"),
    ("/api/admin", "how many dictionaries, analyses, features, bookmarks, lists and runs there are"),
    ("/api/d/KEY/overview", "act_times and max_acts of every feature, by index"),
    (
        "/api/d/KEY/overview.bin",
        "the same as bytes: all act_times as u32, then all max_acts as f32, little end first",
    ),
    (
        "/api/d/KEY/features",
        "a page of features: page, per_page (at most 200), sort (index, density, max), order (asc, desc), min_percent, max_percent (of tokens), min_max, max_max, explained and bookmarked (yes, no), silent=1 for those that never fired",
    ),
    ("/api/d/KEY/random", "the index of a feature; filters as above"),
    ("/api/d/KEY/f/INDEX", "everything about a feature, with the tokens of its contexts"),
    ("/api/search?q=WORDS", "features by explanation and tokens; d=KEY for one dictionary"),
    ("/api/bookmarks", "bookmarks, newest first: page, d=KEY"),
    ("/api/lists", "lists with their features"),
    ("/api/runs", "training runs below --runs"),
    (
        "/api/run?name=NAME&from=BYTE",
        "records of a run; next is where to go on, reset says that the run began anew",
    ),
    (
        "/embed/d/KEY/f/INDEX",
        "a page for a frame: plain=1, range (tokens), samples, sampling, theme (light, dark)",
    ),
    ("/assets/NAME", "style and scripts"),
];
const WRITE: [(&str, &str, &str); 9] = [
    ("/api/d/KEY/f/INDEX/explanation", "{\"text\": \"…\"}", "sets an explanation; null removes it"),
    (
        "/api/d/KEY/f/INDEX/bookmark",
        "{\"bookmarked\": true, \"tags\": [\"…\"], \"notes\": \"…\"}",
        "sets or removes a bookmark; tags and notes that are left out stay",
    ),
    (
        "/api/lists",
        "{\"name\": \"…\", \"notes\": \"…\"}",
        "makes a list or describes it anew; \"remove\": true removes it",
    ),
    (
        "/api/lists/members",
        "{\"list\": \"…\", \"dictionary\": \"KEY\", \"feature\": 17}",
        "adds a feature to a list; \"remove\": true takes it out",
    ),
    (
        "/api/d/KEY/infer",
        "{\"text\": \"…\"}",
        "tokens of a text with the features active on each; \"feature\": 17 tells of that one only",
    ),
    (
        "/api/d/KEY",
        "{\"name\": \"…\", \"path\": \"…\", \"model_name\": \"…\"}",
        "renames a dictionary, says where its weights are now or what model it belongs to; what is left out stays",
    ),
    (
        "/api/d/KEY/remove",
        "{\"confirm\": \"NAME\"}",
        "removes a dictionary with all that is known about it; weights stay",
    ),
    ("/api/d/KEY/analyses/remove", "{\"analysis\": \"NAME\", \"confirm\": \"NAME\"}", "removes an analysis"),
    (
        "/api/runs",
        "{\"name\": \"…\", \"rename\": \"…\"}",
        "renames the folder of a run; \"confirm\": NAME instead removes it from the disk",
    ),
];

/// `/api`
pub async fn docs(State(app): State<Arc<App>>) -> Response {
    let token = if app.token.is_some() { " -H 'authorization: Bearer TOKEN'" } else { "" };
    let body = html! {
        h1 { "API" }
        p { "Everything the pages show, as JSON. KEY is " code { "SERIES:NAME" } " of a dictionary, percent-encoded, or its name where only one series has it. "
            "Below a KEY, " code { "analysis=NAME" } " chooses an analysis. A failure is a status and " code { "{\"error\": \"…\"}" } "." }
        section.card {
            h2 { "Read" }
            dl.api { @for (address, what) in READ { dt { code { "GET " (address) } } dd { (what) } } }
        }
        section.card {
            h2 { "Change and run" }
            p { "With " code { "content-type: application/json" } " and at most " (MAX_BODY >> 10) " KiB; from a browser, only by pages of this server."
                @if app.token.is_some() { " This server wants its token with each." } }
            dl.api { @for (address, body, what) in WRITE { dt { code { "POST " (address) } } dd { code { (body) } br; (what) } } }
            pre { "curl" (token) " -H 'content-type: application/json' \\\n  -d '{\"text\": \"names of rivers\"}' \\\n  http://HOST/api/d/SERIES:NAME/f/17/explanation" }
        }
    };
    Html(page(&app, Tab::Api, "API", None, &body).into_string()).into_response()
}
