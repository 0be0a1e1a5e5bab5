//! One feature: its contexts with every token in the colour of its activation, statistics, output tokens, related features, and
//! what people wrote about it. What a dictionary or store does not have is left out.

use super::{AnalysisAsk, dictionary::jump, html, redirect};
use crate::{
    print,
    serve::{
        app::{App, Place},
        failure::Failure,
        html::{Tab, analyses, bare, bars, chip, density_bars, number, page, percent, token},
        url::encode,
    },
};
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use lm_saes::store::{
    AnalysisRecord, Context, Feature, FeatureAnalysis, Histogram, Interpretation, Related, Sample, Sampling,
    TokenLogit,
};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// Tokens shown before and after the maximum until all are asked for.
const AROUND: u32 = 24;
/// Bars of a histogram of activations at most.
const BARS: usize = 48;

/// What the page may be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FeatureAsk {
    pub analysis: Option<String>,
    /// Name of the sampling shown.
    sampling: Option<String>,
    /// Whole contexts, for those who have no scripts.
    full: Option<String>,
}

/// What an embedded view may be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EmbedAsk {
    pub analysis: Option<String>,
    sampling: Option<String>,
    /// Contexts only.
    plain: Option<String>,
    /// Tokens before and after the maximum.
    range: Option<u32>,
    /// Contexts.
    samples: Option<usize>,
    /// `light` or `dark`.
    theme: Option<String>,
}

/// Where the field for an index leads.
#[derive(Debug, Deserialize)]
pub struct JumpAsk {
    i: u32,
}

/// `/d/KEY/f?i=INDEX`
pub async fn jump_to(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
    Query(ask): Query<JumpAsk>,
) -> Response {
    let found = app.work(move |app| Ok(app.place(&key, which.analysis.as_deref())?.feature(ask.i)));
    redirect(found.await)
}

/// `/d/KEY/f/INDEX`
pub async fn feature(
    State(app): State<Arc<App>>,
    Path((key, index)): Path<(String, u32)>,
    Query(ask): Query<FeatureAsk>,
) -> Response {
    let found = app.work(move |app| {
        let place = app.place(&key, ask.analysis.as_deref())?;
        let (analysis, f) = find(app, &place, index)?;
        let densities = app.densities(&place, analysis)?;
        let view = View { place: &place, analysis, f: &f, densities: &densities, ask: &ask };
        let title = format!("{} #{index}", place.key().name);
        Ok(page(app, Tab::Dictionaries, &title, Some("feature.js"), &view.page()))
    });
    html(found.await)
}

/// `/embed/d/KEY/f/INDEX`
pub async fn embed(
    State(app): State<Arc<App>>,
    Path((key, index)): Path<(String, u32)>,
    Query(ask): Query<EmbedAsk>,
) -> Response {
    let found = app.work(move |app| {
        let place = app.place(&key, ask.analysis.as_deref())?;
        let (analysis, f) = find(app, &place, index)?;
        let title = format!("{} #{index}", place.key().name);
        let theme = ask.theme.as_deref().filter(|t| ["light", "dark"].contains(t));
        Ok(bare(&title, theme, &embedded(&place, analysis, &f, &ask)?))
    });
    html(found.await)
}

/// A feature that is there.
pub fn find<'a>(app: &App, place: &'a Place, index: u32) -> Result<(&'a AnalysisRecord, Feature), Failure> {
    let analysis = place.analysis()?;
    let found = app.store.feature(place.key(), &analysis.name, index)?;
    let missing = || {
        let last = analysis.d_sae.saturating_sub(1);
        Failure::missing(format!("{} has features 0 to {last}, not {index}", place.key()))
    };
    Ok((analysis, found.ok_or_else(missing)?))
}

fn chosen<'a>(f: &'a FeatureAnalysis, name: Option<&str>) -> Result<Option<&'a Sampling>, Failure> {
    match name {
        None => Ok(f.samplings.iter().find(|s| !s.samples.is_empty())),
        Some(name) => {
            f.samplings.iter().find(|s| s.name == name).map(Some).ok_or_else(|| {
                Failure::missing(format!("feature {} has no contexts under {name:?}", f.index))
            })
        }
    }
}

fn embedded(
    place: &Place,
    analysis: &AnalysisRecord,
    f: &Feature,
    ask: &EmbedAsk,
) -> Result<Markup, Failure> {
    let a = &f.analysis;
    let (around, n) = (ask.range.unwrap_or(20), ask.samples.unwrap_or(5));
    let sampling = chosen(a, ask.sampling.as_deref())?;
    Ok(html! {
        @if ask.plain.is_none() {
            header.embedded {
                h1 { a href=(place.feature(a.index)) target="_blank" rel="noopener" { (place.key().name) " #" (a.index) } }
                @if let Some(i) = &f.interpretation { p.says { (i.text) } }
                p.faint { "fires on " (percent(a.density(analysis))) " of tokens · maximum " (number(a.max_act.into())) }
            }
        }
        @for (at, s) in sampling.into_iter().flat_map(|s| &s.samples).take(n).enumerate() {
            @if let Some(context) = f.context(s.context) { (sample(at, s, context, a.max_act, around, false)) }
        }
    })
}

/// One context. Tokens far from the maximum are there, but hidden until asked for.
fn sample(n: usize, s: &Sample, context: &Context, max: f32, around: u32, full: bool) -> Markup {
    let len = context.texts.len();
    let peak = s.peak();
    let top = peak.map(|(at, _)| at as usize);
    let centre = peak.map_or(0, |(at, _)| at);
    let from = (centre.saturating_sub(around) as usize).min(len);
    // Where nothing stands out, as much as elsewhere is shown from the beginning.
    let to = if peak.is_some() { centre + around + 1 } else { 2 * around + 1 } as usize;
    let to = to.clamp(from, len);
    let mut acts = vec![0.0; len];
    for &(at, act) in &s.acts {
        if let Some(slot) = acts.get_mut(at as usize) {
            *slot = act;
        }
    }
    let tokens = |part: std::ops::Range<usize>| {
        html! { @for at in part { (token(&context.texts[at], acts[at], max, Some(at) == top)) } }
    };
    html! {
        article.sample.open[full] id={ "s" (n) } tabindex="-1" data-peak=[peak.map(|(at, _)| at)] data-z=[patterns(s)] {
            header {
                span.act title="strongest activation" { (peak.map_or("–".into(), |(_, v)| number(v.into()))) }
                span.faint {
                    @if let Some((at, _)) = peak { "token " (at + 1) " of " (len) } @else { (len) " tokens" }
                    @if !context.origin.is_empty() { " · " (context.origin) }
                }
                @if peak.is_some() { button.quiet.tojump type="button" title="Jump to the maximum (m)" { "maximum" } }
                @if from > 0 || to < len { button.quiet.toopen type="button" title="The whole context (x)" { "whole" } }
            }
            p.toks dir="auto" {
                @if from > 0 { span.cut { "…" } span.far { (tokens(0..from)) } }
                span { (tokens(from..to)) }
                @if to < len { span.far { (tokens(to..len)) } span.cut { "…" } }
            }
        }
    }
}

/// Query, key and contribution of a sample for the script that paints them.
fn patterns(s: &Sample) -> Option<String> {
    (!s.z_pattern.is_empty()).then(|| {
        let all: Vec<String> = s.z_pattern.iter().map(|(q, k, v)| format!("[{q},{k},{v:.4}]")).collect();
        format!("[{}]", all.join(","))
    })
}

struct View<'a> {
    place: &'a Place,
    analysis: &'a AnalysisRecord,
    f: &'a Feature,
    densities: &'a [u32],
    ask: &'a FeatureAsk,
}

impl View<'_> {
    fn page(&self) -> Markup {
        let (place, a) = (self.place, &self.f.analysis);
        let index = a.index;
        let sampling = chosen(a, self.ask.sampling.as_deref());
        html! {
            header.title {
                p.crumbs { a href="/" { "Dictionaries" } " / " a #up href=(place.url()) { (place.key().name) } }
                div.row {
                    h1 { "Feature " (index) }
                    button #star.star type="button" aria-pressed=(self.f.bookmark.is_some()) title="Bookmark (b)" aria-label="Bookmark" { "★" }
                    nav.steps aria-label="Features" {
                        @if index > 0 { a.button #prev rel="prev" href=(place.feature(index - 1)) title="Previous (←)" { "←" } }
                        @if index + 1 < place.dictionary.d_sae { a.button #next rel="next" href=(place.feature(index + 1)) title="Next (→)" { "→" } }
                        a.button #random href=(place.at("/random")) title="Random (r)" { "Random" }
                    }
                    (jump(place))
                }
                (analyses(place, &format!("/f/{index}")))
            }
            div.feature data-api=(crate::serve::url::dictionary(place.key())) data-index=(index) {
                div.left {
                    (self.explanation())
                    (self.bookmark())
                    section.card #samples {
                        (self.tabs())
                        @match sampling {
                            Ok(Some(sampling)) => { (self.samples(sampling)) }
                            Ok(None) => { p.faint { "This feature has never fired, so there is nothing to show." } }
                            Err(f) => { p { (f.message) } }
                        }
                    }
                    (self.try_text())
                }
                aside.right {
                    (self.statistics())
                    (self.logits())
                    (self.related("Similar decoders", "cosine", &a.neighbours))
                    (self.related("Fires together with", "share of its tokens", &a.coactivations))
                    (self.heads())
                    (self.share())
                }
            }
        }
    }

    fn explanation(&self) -> Markup {
        let i = self.f.interpretation.as_ref();
        html! {
            section.card #explanation {
                div.row { h2 { "Explanation" } button #edit.quiet type="button" title="Edit (e)" { @if i.is_some() { "Edit" } @else { "Write one" } } }
                p.says #says { (i.map_or("", |i| i.text.as_str())) }
                p.faint #by { @if let Some(i) = i { (written_by(i)) } @else { "None yet." } }
                form #editor hidden {
                    textarea name="text" rows="3" maxlength="10000" aria-label="Explanation" { (i.map_or("", |i| i.text.as_str())) }
                    div.row {
                        button { "Save" }
                        button.quiet type="button" name="cancel" { "Cancel" }
                        @if i.is_some() { button.quiet type="button" name="remove" { "Remove" } }
                    }
                }
                @if let Some(i) = i {
                    @if !i.scores.is_empty() {
                        dl.facts { @for (name, score) in &i.scores { div { dt { (name) } dd { (number(*score)) } } } }
                    }
                }
            }
        }
    }

    fn bookmark(&self) -> Markup {
        let b = self.f.bookmark.as_ref();
        html! {
            section.card #bookmark hidden[b.is_none()] {
                h2 { "Bookmark" }
                form {
                    label { "Tags, separated by commas"
                        input name="tags" maxlength="2000" value=(b.map_or(String::new(), |b| b.tags.join(", ")));
                    }
                    label { "Notes" textarea name="notes" rows="2" maxlength="10000" { (b.and_then(|b| b.notes.as_deref()).unwrap_or_default()) } }
                    div.row { button { "Save" } a.quiet href="/bookmarks" { "All bookmarks" } }
                }
                form #tolist.row {
                    input name="list" placeholder="Add to the list …" aria-label="Name of a list" maxlength="200" required;
                    button { "Add" }
                }
            }
        }
    }

    fn tabs(&self) -> Markup {
        let all = &self.f.analysis.samplings;
        let shown = chosen(&self.f.analysis, self.ask.sampling.as_deref()).ok().flatten();
        html! {
            nav.tabs #tabs aria-label="Contexts" {
                @for s in all.iter().filter(|s| !s.samples.is_empty()) {
                    a href=(Place::with(&self.place.feature(self.f.analysis.index), &format!("sampling={}", encode(&s.name)))) aria-current=[shown.is_some_and(|t| t.name == s.name).then_some("true")] {
                        (s.name.replace('_', " ")) " " span.faint { (s.samples.len()) }
                    }
                }
                button #openall.quiet type="button" title="Whole contexts (x)" { "Whole contexts" }
            }
        }
    }

    fn samples(&self, sampling: &Sampling) -> Markup {
        let max = self.f.analysis.max_act;
        html! {
            div #contexts data-max=(max) {
                @for (n, s) in sampling.samples.iter().enumerate() {
                    @if let Some(context) = self.f.context(s.context) {
                        (sample(n, s, context, max, AROUND, self.ask.full.is_some()))
                    }
                }
            }
        }
    }

    fn try_text(&self) -> Markup {
        html! {
            section.card #try {
                h2 { "Try text" }
                form data-api=(self.place.api("/infer")) {
                    textarea name="text" rows="2" maxlength="20000" aria-label="Text to run" placeholder="Type a text to see where this feature fires" {}
                    button { "Run" }
                }
                p.toks #tried aria-live="polite" {}
            }
        }
    }

    fn statistics(&self) -> Markup {
        let a = &self.f.analysis;
        html! {
            section.card #statistics {
                h2 { "Statistics" }
                dl.facts {
                    div { dt { "fires on" } dd title={ (print::count(a.act_times)) " of " (print::count(self.analysis.n_analyzed_tokens)) " tokens" } { (percent(a.density(self.analysis))) } }
                    div { dt { "maximum" } dd { (number(a.max_act.into())) } }
                    @if a.mean_act > 0.0 { div { dt { "mean" } dd { (number(a.mean_act.into())) } } }
                    @if a.n_contexts > 0 { div { dt { "contexts" } dd { (print::count(a.n_contexts)) } } }
                    @for (name, value) in &self.f.metrics { div { dt { (name) } dd { (number(*value)) } } }
                }
                @if !a.histogram.counts.is_empty() { (activations(&a.histogram)) }
                @if a.act_times > 0 { (density_bars(self.densities, Some(a.density(self.analysis)))) }
            }
        }
    }

    fn logits(&self) -> Markup {
        let side = |title: &str, all: &[TokenLogit]| {
            html! {
                div { h3 { (title) }
                    ol.logits { @for t in all { li { (chip(&t.token)) span.num { (number(t.logit.into())) } } } }
                }
            }
        };
        html! {
            @if let Some(l) = &self.f.analysis.logits {
                section.card #logits {
                    h2 { "Output tokens" }
                    div.half { (side("promotes", &l.top_positive)) (side("suppresses", &l.top_negative)) }
                }
            }
        }
    }

    fn related(&self, title: &str, what: &str, all: &[Related]) -> Markup {
        html! {
            @if !all.is_empty() {
                section.card.related {
                    h2 { (title) }
                    ol { @for r in all {
                        li { a href=(self.place.feature(r.feature)) { (r.feature) } span.num title=(what) { (number(r.value.into())) } }
                    } }
                }
            }
        }
    }

    /// Norms and similarities by head or layer, where there are several.
    fn heads(&self) -> Markup {
        let a = &self.f.analysis;
        let n = a.decoder_norms.len();
        html! {
            @if n > 1 {
                section.card #heads {
                    h2 { "Decoder by head or layer" }
                    table {
                        thead { tr { th { "" } th { "norm" } @if a.decoder_similarities.len() == n * n { @for j in 0..n { th { (j) } } } } }
                        tbody { @for (i, norm) in a.decoder_norms.iter().enumerate() {
                            tr {
                                th { (i) } td { (number((*norm).into())) }
                                @if a.decoder_similarities.len() == n * n {
                                    @for j in 0..n {
                                        @let c = a.decoder_similarities[i * n + j];
                                        td class=[crate::serve::html::shade(c, 1.0)] title={ "cosine of " (i) " and " (j) } { (format!("{c:.2}")) }
                                    }
                                }
                            }
                        } }
                    }
                    @if a.decoder_similarities.len() == n * n { p.faint { "Cosines between the decoders." } }
                }
            }
        }
    }

    fn share(&self) -> Markup {
        let index = self.f.analysis.index;
        html! {
            section.card {
                h2 { "Elsewhere" }
                p { a href=(self.place.api(&format!("/f/{index}"))) { "JSON" } " · "
                    a #frame href={ "/embed" (self.place.feature(index)) } { "Embedded view" } }
            }
        }
    }
}

/// Who wrote an explanation.
fn written_by(i: &Interpretation) -> String {
    match i.explainer.as_str() {
        "" => "written by nobody known".into(),
        "manual" => "written by hand".into(),
        by => format!("written by {by}"),
    }
}

/// Occurrences by activation, bins joined until they fit.
fn activations(h: &Histogram) -> Markup {
    let joined = h.counts.len().div_ceil(BARS).max(1);
    let counts: Vec<u32> =
        h.counts.chunks(joined).map(|c| c.iter().fold(0u32, |a, &b| a.saturating_add(b))).collect();
    let width = f64::from(h.width) * joined as f64;
    let bound = |i: usize| number(i as f64 * width);
    let (first, last) = (bound(0), bound(counts.len()));
    bars(&counts, (&first, &last), "Activations", None, |i, n| {
        format!("{} to {}: {} tokens", bound(i), bound(i + 1), print::count(n.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(n: usize) -> Context {
        Context {
            id: 1,
            ids: vec![0; n],
            texts: (0..n).map(|i| format!(" t{i}")).collect(),
            ..Context::default()
        }
    }

    #[test]
    fn a_context_is_whole_in_the_page_and_cut_around_its_maximum() {
        let s = Sample { context: 1, acts: vec![(5, 2.0), (50, 4.0)], z_pattern: vec![(50, 5, 0.5)] };
        let html = sample(0, &s, &context(100), 4.0, 10, false).into_string();
        assert_eq!(html.matches("<i").count(), 100);
        let shown = html.split("</span>").find(|p| p.contains(" t40<")).unwrap();
        assert!(shown.contains(" t60<") && !shown.contains(" t61<") && !shown.contains(" t39<"));
        assert!(html.contains("data-peak=\"50\"") && html.contains("data-z=\"[[50,5,0.5000]]\""));
        assert!(html.contains("<i class=\"h12 peak\" data-a=\"4.000\"> t50</i>"));
        assert!(html.contains("<i class=\"h6\" data-a=\"2.000\"> t5</i>"));
    }

    #[test]
    fn activations_outside_a_context_and_silent_contexts_do_no_harm() {
        let s = Sample { context: 1, acts: vec![(99, 1.0)], z_pattern: Vec::new() };
        let html = sample(0, &s, &context(3), 1.0, 2, false).into_string();
        assert_eq!(html.matches("<i>").count(), 3);
        let silent = sample(0, &Sample::default(), &context(9), 1.0, 2, false).into_string();
        assert!(silent.contains("9 tokens") && !silent.contains("maximum"));
    }

    #[test]
    fn a_wide_histogram_is_joined_without_losing_counts() {
        let h = Histogram { width: 0.5, counts: vec![1; 100] };
        let html = activations(&h).into_string();
        assert_eq!(html.matches("1.500: 3 tokens").count(), 1);
        assert!(html.matches("class=\"bar\"").count() <= BARS);
    }
}
