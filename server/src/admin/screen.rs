//! What a job says while it goes on.

use super::moves::Moves;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

/// How often a line tells how far moves are, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Standard output.
pub(super) struct Screen {
    how: How,
    /// The last line that said what is waited for.
    told: Option<String>,
    /// How far moves were at the last look.
    shown: Option<Moves>,
    /// Whether to show moves is all that is wanted.
    is_watch: bool,
    /// Whether there is somebody who reads.
    is_read: bool,
}

enum How {
    /// Objects, and nothing else.
    Json,
    /// Lines; when one told of moves last.
    Lines(Option<Instant>),
    /// Lines on a terminal, below which is a bar while slots are to move.
    Bar(Option<ProgressBar>),
}

impl Screen {
    pub(super) fn new(json: bool, is_watch: bool) -> Screen {
        let how = match (json, io::stdout().is_terminal()) {
            (true, _) => How::Json,
            (false, false) => How::Lines(None),
            (false, true) => How::Bar(None),
        };
        Screen { how, told: None, shown: None, is_watch, is_read: true }
    }

    /// Whether nothing but objects may come there.
    pub(super) fn is_for_machines(&self) -> bool {
        matches!(self.how, How::Json)
    }

    /// Whether what it says is of use.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_read || !self.is_watch
    }

    fn write(&mut self, line: &str) {
        self.is_read &= writeln!(io::stdout(), "{line}").is_ok();
    }

    /// A line for people.
    pub(super) fn say(&mut self, line: &str) {
        match &self.how {
            How::Json => {}
            How::Lines(_) | How::Bar(None) => self.write(line),
            How::Bar(Some(bar)) => bar.clone().suspend(|| self.write(line)),
        }
    }

    /// What is waited for, once.
    pub(super) fn waiting(&mut self, what: &str) {
        if self.told.as_deref() != Some(what) {
            self.say(&format!("waiting: {what}"));
            self.told = Some(what.to_owned());
        }
    }

    /// An object for machines.
    pub(super) fn object(&mut self, object: &impl Serialize) {
        if self.is_for_machines() {
            match serde_json::to_string(object) {
                Ok(text) => self.write(&text),
                Err(error) => unreachable!("names and numbers only: {error}"),
            }
        }
    }

    /// How far moves are. That there are none is only said to those who wanted to know just that.
    pub(super) fn moves(&mut self, moves: &Moves) {
        let is_news = self.shown.as_ref() != Some(moves);
        let slots = moves.slots_to_move;
        let is_due = match &mut self.how {
            How::Json if is_news && self.is_watch => {
                self.object(moves);
                false
            }
            How::Json => false,
            How::Lines(at) if slots > 0 => {
                let is_due = at.is_none_or(|at| at.elapsed() >= LINE_EVERY);
                is_due.then(|| *at = Some(Instant::now()));
                is_due
            }
            How::Bar(bar) if slots > 0 => {
                draw(bar.get_or_insert_with(new_bar), moves);
                false
            }
            How::Lines(_) | How::Bar(_) => {
                self.end();
                self.is_watch && is_news
            }
        };
        if is_due {
            self.write(&moves.line());
        }
        self.shown = Some(moves.clone());
    }

    /// No slots are to move any more, or it is of no interest.
    pub(super) fn end(&mut self) {
        match &mut self.how {
            How::Json => {}
            How::Lines(at) => *at = None,
            How::Bar(bar) => {
                bar.take().inspect(ProgressBar::finish_and_clear);
            }
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stdout());
    match ProgressStyle::with_template("[{bar:24}] {pos}/{len} slots, {msg}") {
        Ok(style) => bar.with_style(style.progress_chars("#>-")),
        Err(error) => unreachable!("a fixed template: {error}"),
    }
}

/// It is full when all that was ever to move at once has moved.
fn draw(bar: &ProgressBar, moves: &Moves) {
    let full = bar.length().unwrap_or_default().max(moves.slots_to_move);
    bar.set_message(moves.details());
    bar.set_length(full);
    bar.set_position(full - moves.slots_to_move);
}
