//! Progress on the console: one line that moves on a terminal, a line every few seconds elsewhere.

use crate::print;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lm_saes::training::{Observer, Progress};
use std::{
    io::IsTerminal,
    ops::ControlFlow,
    path::Path,
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

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

fn line(p: &Progress) -> String {
    let mut text = format!("step {}/{} · loss {:.4}", p.step, p.total_steps, p.loss);
    if let Some(ev) = p.explained_variance {
        text.push_str(&format!(" · EV {ev:.3}"));
    }
    if let Some(l0) = p.l0 {
        text.push_str(&format!(" · L0 {l0:.1}"));
    }
    text.push_str(&format!(
        " · {} tokens/s · {} left",
        print::count(p.tokens_per_second as u64),
        print::duration(p.remaining)
    ));
    text
}

impl Observer for Console {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        let finished = p.step == p.total_steps;
        match &self.bar {
            Some(bar) => {
                bar.set_length(p.total_steps);
                bar.set_position(p.step);
                bar.set_message(line(p));
                if finished {
                    bar.finish_and_clear();
                }
            }
            None if finished || self.last.is_none_or(|t| t.elapsed() >= PLAIN_INTERVAL) => {
                eprintln!("{}", line(p));
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
