//! A folder of pages that opens from disk: `index.html` with a searchable list of features, `features/N.html` for each, one
//! style and one script. No server, no request to anyone. Everything from outside is escaped.

use anyhow::{Context as _, Result};
use lm_saes::{
    Error,
    export::Selection,
    files,
    store::{Context, Feature, FeatureAnalysis, Related, Sample, TokenLogit},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Tokens before and after the peak that a closed sample shows.
const AROUND: usize = 15;

/// Writes the folder; features that an earlier export of it had more of are removed. Returns its index.
///
/// # Errors
/// What the store refuses, a folder that holds something else, or a disk that does not take the files.
pub fn export(from: &Selection<'_>, dir: &Path, mut progress: impl FnMut(usize)) -> Result<PathBuf> {
    let index = dir.join("index.html");
    let foreign =
        dir.read_dir().is_ok_and(|mut all| all.next().is_some()) && !dir.join("features.js").exists();
    anyhow::ensure!(!foreign, "{} holds something else; choose an empty or a new folder", dir.display());
    let write =
        |name: &str, text: &str| files::write_atomic(&dir.join(name), |w| w.write_all(text.as_bytes()));
    // Marks the folder as ours, also for an export that is cut off.
    write("features.js", "const FEATURES = [];\n")?;
    let known: BTreeSet<u32> = from.features.iter().copied().collect();
    let mut rows = Vec::with_capacity(from.features.len());
    from.each(|n, feature| {
        let page = page(from, n, &feature, &known).map_err(|e| Error::Data { what: e.to_string() })?;
        write(&format!("features/{}.html", feature.analysis.index), &page)?;
        rows.push(row(from, &feature));
        progress(n + 1);
        Ok(())
    })?;
    // JSON is a script too, but for what would end the element; this one is a file of its own.
    write("features.js", &format!("const FEATURES = {};\n", json!(rows)))?;
    write("style.css", STYLE)?;
    write("script.js", SCRIPT)?;
    write("index.html", &front(from)?)?;
    remove_others(&dir.join("features"), &known)?;
    Ok(index)
}

fn remove_others(folder: &Path, known: &BTreeSet<u32>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?.flatten() {
        let path = entry.path();
        let number = path.file_stem().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok());
        let ours = path.extension().is_some_and(|e| e == "html");
        if ours && number.is_some_and(|n| !known.contains(&n)) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Text as it stands in HTML, in elements and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// What the list shows and searches: number, times, maximum, explanation, tokens.
fn row(from: &Selection<'_>, f: &Feature) -> serde_json::Value {
    let a = &f.analysis;
    let density = (a.density(&from.analysis) * 1e8).round() / 1e8;
    let text = f.interpretation.as_ref().map_or("", |i| i.text.as_str());
    json!([a.index, density, a.max_act, text, a.peak_tokens.iter().take(6).collect::<Vec<_>>()])
}

fn document(title: &str, base: &str, scripts: &[&str], body: &str) -> String {
    let scripts: String = scripts.iter().map(|s| format!("<script src=\"{base}{s}\"></script>\n")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"stylesheet\" href=\"{base}style.css\">\n</head>\n<body>\n{body}{scripts}</body>\n</html>\n",
        escape(title)
    )
}

fn front(from: &Selection<'_>) -> Result<String> {
    let (d, a) = (&from.dictionary, &from.analysis);
    let mut body = String::new();
    let kind = d.cfg["sae_type"].as_str().unwrap_or("dictionary");
    let model = d.model_name.as_deref().unwrap_or("a model without name");
    write!(
        body,
        "<header><h1>{}</h1>\n<p>{} of {} features on {}; ",
        escape(&d.key.name),
        escape(kind),
        d.d_sae,
        escape(model)
    )?;
    writeln!(
        body,
        "{} of them here, analysed on {} tokens in {} contexts.</p></header>",
        from.features.len(),
        a.n_analyzed_tokens,
        a.n_contexts
    )?;
    body.push_str(
        "<form id=\"tools\"><input id=\"search\" type=\"search\" placeholder=\"search explanations and tokens\" autofocus>\n\
         <select id=\"sort\"><option value=\"0\">by number</option><option value=\"1\">densest first</option>\
         <option value=\"2\">strongest first</option></select>\n<span id=\"count\"></span></form>\n\
         <table><thead><tr><th>feature</th><th>fires on</th><th>maximum</th><th>explanation, or the tokens it peaks on</th></tr>\
         </thead><tbody id=\"rows\"></tbody></table>\n<button id=\"more\" hidden>more</button>\n\
         <noscript>The list needs JavaScript; the pages in the folder features do not.</noscript>\n",
    );
    Ok(document(&d.key.name, "", &["features.js", "script.js"], &body))
}

fn page(
    from: &Selection<'_>,
    n: usize,
    f: &Feature,
    known: &BTreeSet<u32>,
) -> Result<String, std::fmt::Error> {
    let a = &f.analysis;
    let mut body = String::new();
    let near = |n: Option<usize>| n.and_then(|n| from.features.get(n));
    let step = |to: Option<&u32>, id: &str, text: &str| match to {
        Some(i) => format!("<a id=\"{id}\" href=\"{i}.html\">{text}</a>"),
        None => format!("<span>{text}</span>"),
    };
    writeln!(
        body,
        "<nav><a href=\"../index.html\">{}</a> {} {}</nav>",
        escape(&from.dictionary.key.name),
        step(near(n.checked_sub(1)), "previous", "‹ previous"),
        step(near(Some(n + 1)), "next", "next ›"),
    )?;
    writeln!(body, "<header><h1>Feature {}</h1>", a.index)?;
    if let Some(i) = &f.interpretation {
        writeln!(body, "<p class=\"explanation\">{}</p>", escape(&i.text))?;
    }
    writeln!(
        body,
        "<p>fires on {:.4} % of tokens, in {} contexts · maximum {:.3} · mean {:.3}</p></header>",
        100.0 * a.density(&from.analysis),
        a.n_contexts,
        a.max_act,
        a.mean_act
    )?;
    body.push_str("<section class=\"cards\">\n");
    histogram(&mut body, a)?;
    if let Some(l) = &a.logits {
        tokens(&mut body, "promotes", &l.top_positive)?;
        tokens(&mut body, "suppresses", &l.top_negative)?;
    }
    relations(&mut body, "most similar decoder", &a.neighbours, known)?;
    relations(&mut body, "fires together with", &a.coactivations, known)?;
    heads(&mut body, a)?;
    body.push_str("</section>\n");
    for sampling in a.samplings.iter().filter(|s| !s.samples.is_empty()) {
        writeln!(
            body,
            "<section><h2>{} <small>{}</small></h2>",
            escape(&sampling.name),
            sampling.samples.len()
        )?;
        for sample in &sampling.samples {
            if let Some(context) = f.context(sample.context) {
                text(&mut body, sample, context, a.max_act)?;
            }
        }
        body.push_str("</section>\n");
    }
    let title = format!("{} · {}", a.index, from.dictionary.key.name);
    Ok(document(&title, "../", &["script.js"], &body))
}

fn histogram(body: &mut String, a: &FeatureAnalysis) -> std::fmt::Result {
    let Some(&most) = a.histogram.counts.iter().max() else { return Ok(()) };
    let (counts, width) = (&a.histogram.counts, a.histogram.width);
    writeln!(
        body,
        "<div><h2>activations</h2><svg viewBox=\"0 0 {} 60\" role=\"img\" aria-label=\"histogram\">",
        4 * counts.len()
    )?;
    for (i, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        // By logarithm, so that rare strong activations can be seen.
        let height = 60.0 * f64::from(n + 1).ln() / f64::from(most + 1).ln();
        let (from, to) = (i as f32 * width, (i + 1) as f32 * width);
        writeln!(
            body,
            "<rect x=\"{}\" y=\"{:.1}\" width=\"3\" height=\"{height:.1}\"><title>{from:.3} to {to:.3}: {n}</title></rect>",
            4 * i,
            60.0 - height
        )?;
    }
    writeln!(body, "</svg><p>0 to {:.3}, counts by logarithm</p></div>", counts.len() as f32 * width)
}

fn tokens(body: &mut String, title: &str, all: &[TokenLogit]) -> std::fmt::Result {
    writeln!(body, "<div><h2>{title}</h2><table>")?;
    for t in all {
        writeln!(body, "<tr><td><code>{}</code></td><td>{:.2}</td></tr>", escape(&shown(&t.token)), t.logit)?;
    }
    body.write_str("</table></div>\n")
}

fn relations(body: &mut String, title: &str, all: &[Related], known: &BTreeSet<u32>) -> std::fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    writeln!(body, "<div><h2>{title}</h2><table>")?;
    for r in all {
        let name = match known.contains(&r.feature) {
            true => format!("<a href=\"{0}.html\">{0}</a>", r.feature),
            false => r.feature.to_string(),
        };
        writeln!(body, "<tr><td>{name}</td><td>{:.3}</td></tr>", r.value)?;
    }
    body.write_str("</table></div>\n")
}

/// Norms of each head or target layer, and how alike heads are.
fn heads(body: &mut String, a: &FeatureAnalysis) -> std::fmt::Result {
    let n = a.decoder_norms.len();
    if n < 2 {
        return Ok(());
    }
    body.write_str("<div><h2>decoder norm, similarity</h2><table>\n")?;
    for (i, norm) in a.decoder_norms.iter().enumerate() {
        let cosines = a.decoder_similarities.get(i * n..(i + 1) * n).unwrap_or_default();
        let cells: String = cosines.iter().map(|c| format!("<td>{c:.2}</td>")).collect();
        writeln!(body, "<tr><th>{i}</th><td>{norm:.3}</td>{cells}</tr>")?;
    }
    body.write_str("</table></div>\n")
}

/// White space that can be seen.
fn shown(text: &str) -> String {
    text.replace('\n', "⏎").replace('\t', "⇥")
}

/// A sample: the stretch around its peak, the whole context when opened.
fn text(body: &mut String, sample: &Sample, context: &Context, max: f32) -> std::fmt::Result {
    let (peak, strongest) = sample.peak().map_or((0, 0.0), |(at, v)| (at as usize, v));
    let end = context.texts.len();
    let near = peak.saturating_sub(AROUND).min(end)..(peak + AROUND + 1).min(end);
    write!(body, "<details><summary><b>{strongest:.2}</b> ")?;
    spans(body, sample, context, near, max)?;
    body.write_str("</summary><p>")?;
    spans(body, sample, context, 0..end, max)?;
    writeln!(body, "</p></details>")
}

fn spans(
    body: &mut String,
    sample: &Sample,
    context: &Context,
    which: std::ops::Range<usize>,
    max: f32,
) -> std::fmt::Result {
    for at in which {
        let token = escape(&shown(&context.texts[at]));
        let act = sample.acts.iter().find(|(p, _)| *p as usize == at).map_or(0.0, |(_, v)| *v);
        if act == 0.0 {
            body.push_str(&token);
            continue;
        }
        let share = if max > 0.0 { (act.abs() / max).clamp(0.0, 1.0) } else { 0.0 };
        let alpha = 0.15 + 0.85 * share;
        write!(body, "<mark style=\"--a:{alpha:.2}\" title=\"{act:.3}\">{token}</mark>")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cannot_become_markup() {
        let hostile = "</script><img src=x onerror='alert(1)'>&\"";
        let context =
            Context { texts: vec![hostile.into(), "b".into()], ids: vec![1, 2], ..Context::default() };
        let sample = Sample { acts: vec![(0, 1.0)], ..Sample::default() };
        let mut body = String::new();
        text(&mut body, &sample, &context, 1.0).unwrap();
        assert!(!body.contains("<img") && !body.contains("</script>"), "{body}");
        assert!(body.contains("&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&amp;&quot;"), "{body}");
    }

    #[test]
    fn a_token_that_is_not_in_the_text_is_left_out() {
        // Samples of other programs may point past a context whose text is not known.
        let sample = Sample { acts: vec![(9, 1.0)], ..Sample::default() };
        let mut body = String::new();
        text(&mut body, &sample, &Context::default(), 1.0).unwrap();
        assert!(body.contains("<b>1.00</b>"), "{body}");
    }
}
