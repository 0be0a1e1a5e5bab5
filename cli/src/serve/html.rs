//! The frame of every page and the pieces several share: tokens in the colour of their activation, bars, numbers, links. Text from
//! outside only ever enters through the template, which escapes it; there are no inline styles or scripts.

use super::{
    app::{App, Place},
    failure::Failure,
};
use crate::print;
use maud::{DOCTYPE, Markup, html};

/// Shades of a token.
const SHADES: f32 = 12.0;

/// Which entry of the menu a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Dictionaries,
    Bookmarks,
    Lists,
    Runs,
    Admin,
    Api,
    None,
}

/// A whole page. `module` is the script it needs besides the one of all pages.
pub fn page(app: &App, tab: Tab, title: &str, module: Option<&str>, body: &Markup) -> Markup {
    let entries = [
        (Tab::Dictionaries, "/", "Dictionaries"),
        (Tab::Bookmarks, "/bookmarks", "Bookmarks"),
        (Tab::Lists, "/lists", "Lists"),
        (Tab::Runs, "/runs", "Runs"),
        (Tab::Admin, "/admin", "Admin"),
        (Tab::Api, "/api", "API"),
    ];
    html! {
        (head(title, module))
        body data-token=[app.token.is_some().then_some("needed")] {
            a.skip href="#main" { "Skip to content" }
            header.top {
                a.brand href="/" { "lm-saes" }
                nav aria-label="Main" {
                    @for (entry, href, name) in entries {
                        @if entry != Tab::Runs || app.runs.is_some() {
                            a href=(href) aria-current=[(entry == tab).then_some("page")] { (name) }
                        }
                    }
                }
                form.find action="/search" role="search" {
                    input #find type="search" name="q" placeholder="Search explanations and tokens" aria-label="Search explanations and tokens" maxlength="200";
                }
                @if app.token.is_some() {
                    button #token.quiet type="button" title="The token that changes need" { "Token" }
                }
                button #theme.quiet type="button" title="Light or dark (t)" aria-label="Light or dark" { "◐" }
                button #keys.quiet type="button" title="Keyboard (?)" aria-label="Keyboard" { "?" }
            }
            main #main { (body) }
            div #tip role="tooltip" hidden {}
            div #said role="status" aria-live="polite" {}
            (keyboard())
        }
    }
}

/// A page for a frame in another page: no menu.
pub fn bare(title: &str, theme: Option<&str>, body: &Markup) -> Markup {
    html! {
        (head(title, None))
        body.bare data-theme=[theme] {
            main #main { (body) }
            div #tip role="tooltip" hidden {}
        }
    }
}

fn head(title: &str, module: Option<&str>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en";
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " · lm-saes" }
            link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
            link rel="stylesheet" href="/assets/app.css";
            script src="/assets/theme.js" {}
            script type="module" src="/assets/base.js" {}
            @if let Some(module) = module { script type="module" src={ "/assets/" (module) } {} }
        }
    }
}

fn keyboard() -> Markup {
    let keys = [
        ("/", "search"),
        ("← →  or  j k", "previous and next feature, or page of a list"),
        ("r", "a random feature"),
        ("m", "the maximum of the next context"),
        ("x", "whole contexts or the part around the maximum"),
        ("b", "bookmark"),
        ("e", "edit the explanation"),
        ("d", "all features of the dictionary"),
        ("t", "light or dark"),
        ("?", "this list"),
    ];
    html! {
        dialog #help aria-label="Keyboard" {
            h2 { "Keyboard" }
            dl { @for (key, what) in keys { dt { kbd { (key) } } dd { (what) } } }
            form method="dialog" { button { "Close" } }
        }
    }
}

/// The page of a failure.
pub fn failure_page(app: &App, f: &Failure) -> Markup {
    let body = html! {
        section.card.narrow {
            h1 { (f.status.as_u16()) " · " (f.status.canonical_reason().unwrap_or("Refused")) }
            p { (f.message) }
            p { a href="/" { "All dictionaries" } }
        }
    };
    page(app, Tab::None, f.status.canonical_reason().unwrap_or("Refused"), None, &body)
}

/// A token as it can be read: line ends and tabs as signs, nothing that steers.
pub fn visible(text: &str) -> String {
    let sign = |c: char| match c {
        '\n' | '\r' => '⏎',
        '\t' => '⇥',
        // Controls, and marks that would turn around what follows.
        c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => '\u{fffd}',
        c => c,
    };
    text.chars().map(sign).collect()
}

/// Class of a token by its share of the largest activation: `h1` to `h12`, `n` in front for negative ones.
pub fn shade(act: f32, max: f32) -> Option<String> {
    let share = if max > 0.0 { act.abs() / max } else { 0.0 };
    if share.is_nan() || share <= 0.0 {
        return None;
    }
    let level = (share * SHADES).ceil().clamp(1.0, SHADES) as u32;
    let sign = if act < 0.0 { " n" } else { "" };
    Some(format!("h{level}{sign}"))
}

/// One token, the strongest of its context or not. Its place among its siblings says its position.
pub fn token(text: &str, act: f32, max: f32, peak: bool) -> Markup {
    match shade(act, max) {
        Some(class) => {
            html! { i class={ (class) @if peak { " peak" } } data-a=(number(act.into())) { (visible(text)) } }
        }
        None => html! { i { (visible(text)) } },
    }
}

/// A short stretch of tokens.
pub fn stretch(tokens: &[(String, f32)], max: f32) -> Markup {
    html! { span.toks { @for (text, act) in tokens { (token(text, *act, max, false)) } } }
}

/// A token on its own, with its spaces visible.
pub fn chip(text: &str) -> Markup {
    html! { code.chip { (visible(text).replace(' ', "␣")) } }
}

/// Four significant digits where there are decimals.
pub fn number(x: f64) -> String {
    let size = x.abs();
    match size {
        _ if !x.is_finite() => "–".into(),
        0.0 => "0".into(),
        ..0.001 | 1e6.. => format!("{x:.2e}"),
        ..10.0 => format!("{x:.3}"),
        ..100.0 => format!("{x:.2}"),
        ..1000.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    match 100.0 * share {
        0.0 => "0 %".into(),
        p @ ..0.0001 => format!("{p:.1e} %"),
        p @ ..0.1 => format!("{p:.4} %"),
        p @ ..10.0 => format!("{p:.2} %"),
        p => format!("{p:.1} %"),
    }
}

/// Counts as bars of logarithmic height. `describe` gives the tooltip of a bar, `marked` is the bar that stands out.
pub fn bars(
    counts: &[u32],
    (left, right): (&str, &str),
    title: &str,
    marked: Option<usize>,
    describe: impl Fn(usize, u32) -> String,
) -> Markup {
    let (wide, high) = (360.0, 92.0);
    let most = f64::from(counts.iter().copied().max().unwrap_or(0));
    let step = wide / counts.len().max(1) as f64;
    let gap = if step > 4.0 { 1.0 } else { 0.2 };
    html! {
        figure.bars {
            figcaption { (title) }
            svg viewBox={ "0 0 " (wide) " " (high) } preserveAspectRatio="none" role="img" aria-label=(title) {
                @for (i, &n) in counts.iter().enumerate() {
                    @let height = if n == 0 { 0.0 } else { 3.0 + (high - 3.0) * f64::from(n).ln_1p() / most.ln_1p() };
                    @let x = format!("{:.2}", i as f64 * step);
                    @let width = format!("{:.2}", (step - gap).max(0.5));
                    g data-tip=(describe(i, n)) {
                        rect.hit x=(x) y="0" width=(width) height=(high) {}
                        rect.bar.now[marked == Some(i)] x=(x) y={ (format!("{:.2}", high - height)) } width=(width) height={ (format!("{height:.2}")) } {}
                    }
                }
            }
            div.ends { span { (left) } span { "count, log scale: at most " (print::count(most as u64)) } span { (right) } }
        }
    }
}

/// How many features fire how often, `marked` being one of them.
pub fn density_bars(counts: &[u32], marked: Option<f64>) -> Markup {
    let bins = counts.len();
    let per_decade = bins as f64 / 7.0;
    let at = marked
        .filter(|d| *d > 0.0)
        .map(|d| (((d.log10() + 7.0) * per_decade).max(0.0) as usize).min(bins.saturating_sub(1)));
    let describe = |i: usize, n: u32| {
        let bound = |i: usize| percent(10f64.powf(i as f64 / per_decade - 7.0));
        format!("{} to {} of tokens: {} features", bound(i), bound(i + 1), print::count(n.into()))
    };
    let title = match at {
        Some(_) => "Log density: this feature among all",
        None => "Log density of all features that fired",
    };
    bars(counts, ("10⁻⁷ of tokens", "all tokens"), title, at, describe)
}

/// Links to the pages of a list.
pub fn pager(page: u64, pages: u64, address: impl Fn(u64) -> String) -> Markup {
    html! {
        @if pages > 1 {
            nav.pager aria-label="Pages" {
                @if page > 1 { a #prev rel="prev" href=(address(page - 1)) { "← Previous" } }
                span { "Page " (print::count(page)) " of " (print::count(pages)) }
                @if page < pages { a #next rel="next" href=(address(page + 1)) { "Next →" } }
            }
        }
    }
}

/// The analyses of a dictionary, where there is a choice. `path` is the page below the dictionary's.
pub fn analyses(place: &Place, path: &str) -> Markup {
    let base = super::url::dictionary(place.key());
    let shown = place.analysis.as_ref().map(|a| a.name.as_str());
    html! {
        @if place.analyses.len() > 1 {
            nav.tabs aria-label="Analyses" {
                @for name in &place.analyses {
                    a href={ (base) (path) "?analysis=" (super::url::encode(name)) } aria-current=[(shown == Some(name)).then_some("true")] { (name) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_escaped_and_cannot_steer() {
        let html = token("</i><script>alert(1)</script>\u{202e}\n", 1.0, 2.0, false).into_string();
        assert_eq!(
            html,
            "<i class=\"h6\" data-a=\"1.000\">&lt;/i&gt;&lt;script&gt;alert(1)&lt;/script&gt;\u{fffd}⏎</i>"
        );
    }

    #[test]
    fn shades_follow_the_share_of_the_maximum() {
        assert_eq!(shade(0.0, 4.0), None);
        assert_eq!(shade(f32::NAN, 4.0), None);
        assert_eq!(shade(1.0, 0.0), None);
        assert_eq!(shade(0.001, 4.0).as_deref(), Some("h1"));
        assert_eq!(shade(4.0, 4.0).as_deref(), Some("h12"));
        assert_eq!(shade(-2.0, 4.0).as_deref(), Some("h6 n"));
        assert_eq!(shade(9.0, 4.0).as_deref(), Some("h12"));
    }

    #[test]
    fn numbers_keep_what_can_be_read() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(12.3456), "12.35");
        assert_eq!(number(-0.5), "-0.500");
        assert_eq!(number(1234.5), "1234");
        assert_eq!(number(f64::NAN), "–");
        assert_eq!(percent(0.0016), "0.16 %");
        assert_eq!(percent(1e-7), "1.0e-5 %");
    }
}
