//! What is to be said of a directory.

use super::image::Sizes;
use std::io::{self, Write};
use std::path::Path;

/// Sentences that are kept; the others are counted.
const KEPT_MAX: usize = 100;

/// Faults and notes, in the order they were found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    faults: Vec<(String, &'static str)>,
    notes: Vec<String>,
    /// Found since the last time it was printed, and not kept.
    unsaid: u64,
    /// Of all directories so far.
    pub(crate) total: Total,
}

/// How many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// What a start refuses, or the node would stop for.
    pub faults: u64,
    /// What is worth to be known.
    pub notes: u64,
}

impl Findings {
    /// Something is wrong: what, in one sentence, and what to do about it.
    pub(crate) fn fault(&mut self, what: String, advice: &'static str) {
        self.total.faults += 1;
        if self.faults.len() < KEPT_MAX {
            self.faults.push((what, advice));
        } else {
            self.unsaid += 1;
        }
    }

    /// Something is unusual.
    pub(crate) fn note(&mut self, what: String) {
        self.total.notes += 1;
        if self.notes.len() < KEPT_MAX {
            self.notes.push(what);
        } else {
            self.unsaid += 1;
        }
    }

    /// Faults so far.
    pub(crate) fn count(&self) -> u64 {
        self.total.faults
    }

    /// The first fault that was not printed.
    pub(crate) fn first(&self) -> Option<&str> {
        self.faults.first().map(|(what, _)| &**what)
    }

    /// Says so if redb has passed over the newest commit.
    pub(crate) fn fell_back(&mut self, path: &Path, sizes: Sizes) {
        if sizes.fell_back {
            self.note(format!(
                "of the last two commits of {} one is not whole, and a start goes on with the other: a \
                 loss of power may do that, and nothing is lost by it; if there was none, the disk has \
                 lost or changed something, which may have been acknowledged",
                path.display()
            ));
        }
    }

    /// Prints what was found since the last time.
    pub(crate) fn print(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut last = "";
        for (what, advice) in self.faults.drain(..) {
            writeln!(out, "fault: {}", one_line(&what))?;
            if last != advice {
                writeln!(out, "  what to do: {advice}")?;
            }
            last = advice;
        }
        for note in self.notes.drain(..) {
            writeln!(out, "note: {}", one_line(&note))?;
        }
        if std::mem::take(&mut self.unsaid) > 0 {
            writeln!(out, "note: there is more of this than is said here")?;
        }
        Ok(())
    }
}

impl Total {
    /// The last line.
    pub fn verdict(self) -> String {
        let times = |count: u64, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        match (self.faults, self.notes) {
            (0, 0) => "sound".to_owned(),
            (0, notes) => format!("sound, with {}", times(notes, "note")),
            (faults, 0) => times(faults, "fault"),
            (faults, notes) => format!("{}, {}", times(faults, "fault"), times(notes, "note")),
        }
    }
}

/// Names of files may have anything in them.
pub(crate) fn one_line(text: &str) -> String {
    let escaped = text.chars().map(|c| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    });
    escaped.collect()
}
