//! Text for people: sizes, durations, counts, error chains.

use lm_saes::runners::Memory;
use std::{path::Path, time::Duration};

/// `1.5 GiB`, `820 KiB`, `12 B`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `1 234 567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// `1 234`, and `2.5` or `0.04` of what is slow.
pub fn rate(per_second: f64) -> String {
    match per_second {
        10.0.. => count(per_second as u64),
        1.0..10.0 => format!("{per_second:.1}"),
        _ => format!("{per_second:.2}"),
    }
}

/// `2h05m`, `3m07s`, `12s`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
    }
}

/// Memory by purpose, on standard output.
pub fn memory(all: &[Memory]) {
    println!("memory {}", bytes(all.iter().map(|m| m.bytes as u64).sum()));
    shares(all);
}

/// A line for each purpose, on standard output.
pub fn shares(all: &[Memory]) {
    for m in all {
        let certainty = if m.exact { "" } else { " (estimate)" };
        println!("  {:<28}{:>12}{certainty}", m.what, bytes(m.bytes as u64));
    }
}

/// Where the model is, and what stands in the way, on standard output.
pub fn whereabouts(model: Option<&Path>, obstacles: &[String]) {
    if let Some(path) = model {
        println!("language model: {}", path.display());
    }
    for obstacle in obstacles {
        println!("to run this here: {obstacle}");
    }
}

/// The whole chain of causes, each once: an outer message that already ends with its cause is not repeated.
pub fn chain(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_in_threes() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1 234 567");
    }

    #[test]
    fn slow_rates_keep_their_decimals() {
        assert_eq!([1234.5, 2.54, 0.042].map(rate), ["1 234", "2.5", "0.04"]);
    }

    #[test]
    fn bytes_use_binary_units() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }

    #[test]
    fn a_cause_already_named_is_not_repeated() {
        let e = anyhow::anyhow!("no such file").context("model.json: no such file");
        assert_eq!(chain(&e), "model.json: no such file");
    }
}
