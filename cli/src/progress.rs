//! Progress on the console: one line that moves on a terminal, a line every few seconds elsewhere.

use crate::print;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lm_saes::training::{Advance, MemberProgress, Observer, Progress};
use std::{
    io::IsTerminal,
    ops::ControlFlow,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Between two lines where the output is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Shows a run's progress on standard error.
pub struct Console {
    bar: Option<ProgressBar>,
    last: Option<Instant>,
}

impl Console {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {percent:>3}% {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, last: None }
    }

    /// Puts `text` on the moving line, or now and then on a line of its own.
    fn show(&mut self, p: &Progress, text: impl Fn() -> String) {
        let finished = p.step == p.total_steps;
        match &self.bar {
            Some(bar) => {
                bar.set_length(p.total_steps);
                bar.set_position(p.step);
                bar.set_message(text());
                if finished {
                    bar.finish_and_clear();
                }
            }
            None if finished || self.last.is_none_or(|t| t.elapsed() >= PLAIN_INTERVAL) => {
                eprintln!("{}", text());
                self.last = Some(Instant::now());
            }
            None => {}
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

fn line(p: &Progress) -> String {
    let mut text = format!("step {}/{}{}", p.step, p.total_steps, figures(p));
    text.push_str(&format!(
        " · {} tokens/s · {} left",
        print::count(p.tokens_per_second as u64),
        print::duration(p.remaining)
    ));
    text
}

/// One line for the stream and one for every member.
fn table(members: &[MemberProgress<'_>]) -> String {
    let Some(slowest) = members.iter().max_by_key(|m| m.progress.remaining) else { return String::new() };
    let p = &slowest.progress;
    let mut text = format!(
        "step {}/{} · {} in training · {} tokens/s · {} left",
        p.step,
        p.total_steps,
        members.len(),
        print::count(p.tokens_per_second as u64),
        print::duration(p.remaining)
    );
    let width = members.iter().map(|m| m.name.chars().count()).max().unwrap_or(0);
    for m in members {
        text.push_str(&format!("\n  {:width$} {}", m.name, figures(&m.progress)));
    }
    text
}

fn figures(p: &Progress) -> String {
    let mut text = format!(" · loss {:.4}", p.loss);
    if let Some(ev) = p.explained_variance {
        text.push_str(&format!(" · EV {ev:.3}"));
    }
    if let Some(l0) = p.l0 {
        text.push_str(&format!(" · L0 {l0:.1}"));
    }
    text
}

impl Observer for Console {
    fn members(&mut self, members: &[MemberProgress<'_>]) -> ControlFlow<()> {
        let longest = members.iter().map(|m| m.progress).max_by_key(|p| p.total_steps);
        let Some(p) = longest else { return ControlFlow::Continue(()) };
        self.show(&p, || table(members));
        ControlFlow::Continue(())
    }

    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        self.show(p, || line(p));
        ControlFlow::Continue(())
    }

    fn advanced(&mut self, a: &Advance) -> ControlFlow<()> {
        let text = format!(
            "{} of {} {} · {}/s · {} left",
            print::count(a.done),
            print::count(a.total),
            a.what,
            print::rate(a.per_second),
            print::duration(a.remaining)
        );
        let finished = a.done >= a.total;
        match &self.bar {
            Some(bar) => {
                bar.set_length(a.total);
                bar.set_position(a.done.min(a.total));
                bar.set_message(text);
                if finished {
                    bar.finish_and_clear();
                }
            }
            None if self.last.is_none_or(|t| t.elapsed() >= PLAIN_INTERVAL) => {
                eprintln!("{text}");
                self.last = Some(Instant::now());
            }
            None => {}
        }
        ControlFlow::Continue(())
    }

    fn snapshot(&mut self, path: &Path) {
        self.say(&format!("snapshot {}", path.display()));
    }

    fn phase(&mut self, what: &str) {
        self.say(what);
    }
}

/// Shows what is fetched from the hub: on a terminal a line that moves, elsewhere one now and then.
pub fn fetching(name: &str, done: u64, total: u64) {
    static STATE: Mutex<Option<(String, Instant, Instant, u64)>> = Mutex::new(None);
    let Ok(mut state) = STATE.lock() else { return };
    let now = Instant::now();
    let (since, last, from) = match &*state {
        Some((shown, since, last, from)) if shown == name => (*since, Some(*last), *from),
        _ => (now, None, done),
    };
    let terminal = std::io::stderr().is_terminal();
    let interval = if terminal { Duration::from_millis(200) } else { PLAIN_INTERVAL };
    let finished = done >= total;
    if !finished && last.is_some_and(|l| l.elapsed() < interval) {
        return;
    }
    let seconds = since.elapsed().as_secs_f64();
    let rate = if seconds > 0.5 { (done - from.min(done)) as f64 / seconds } else { 0.0 };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let left = if rate > 0.0 { (total - done.min(total)) as f64 / rate } else { 0.0 };
    let text = format!(
        "{name}: {:.1} of {:.1} MiB, {:.1} MiB/s, {left:.0} s left",
        mib(done),
        mib(total),
        rate / f64::from(1 << 20)
    );
    match (terminal, finished) {
        (true, false) => eprint!("\r{text}\x1b[K"),
        (true, true) => eprint!("\r\x1b[K"),
        _ => eprintln!("{text}"),
    }
    *state = Some((name.into(), since, now, from));
}
