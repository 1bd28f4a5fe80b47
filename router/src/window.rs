//! How many answers without a small bound one connection may have under way. Pure.
//!
//! A value may have 64 MiB and its size is known only when it is here, so the window starts small,
//! doubles with every round of answers while it is used, and is cut to what fits when they are
//! large. What it learned stays for the next pipeline.

use crate::connection::EXPECTED_BYTES_MAX;
use shard_core::op::{Op, Set};

/// Answers that may be under way before the first came: so many of the largest values are far below
/// what closes a connection.
const WINDOW_FIRST: usize = 2;
/// Answers that may be under way at the most, however small the last ones were.
pub const WINDOW_MAX: usize = 128;

/// Whether nothing bounds the answer but the size of values and keys.
pub fn answers_values(op: &Op) -> bool {
    matches!(
        op.plain(),
        Op::Get { .. }
            | Op::MGet { .. }
            | Op::GetDel { .. }
            | Op::ListKeys { .. }
            | Op::Set(Set { get: true, .. })
    )
}

/// See the module.
#[derive(Debug)]
pub struct AnswerWindow {
    under_way: usize,
    /// The most that were under way since there were none.
    peak: usize,
    window: usize,
    /// The largest of the last answers: up at once, down by and by.
    recent_bytes: usize,
}

impl AnswerWindow {
    /// One that has learned nothing.
    pub fn new() -> AnswerWindow {
        AnswerWindow { under_way: 0, peak: 0, window: WINDOW_FIRST, recent_bytes: 0 }
    }

    /// Whether one more may be asked for, while `unsent_bytes` of replies wait for the client.
    pub fn is_open(&self, unsent_bytes: usize) -> bool {
        let expected = (self.under_way + 1).saturating_mul(self.recent_bytes);
        unsent_bytes < EXPECTED_BYTES_MAX
            && (self.under_way == 0
                || self.under_way < self.window
                    && unsent_bytes.saturating_add(expected) <= EXPECTED_BYTES_MAX)
    }

    /// `answers` are asked for.
    pub fn asked(&mut self, answers: usize) {
        self.under_way += answers;
        self.peak = self.peak.max(self.under_way);
    }

    /// One came.
    pub fn answered(&mut self, bytes: usize) {
        let usual = self.recent_bytes - self.recent_bytes.div_ceil(8);
        self.recent_bytes = bytes.max(usual).max(1);
        if self.window < self.peak.saturating_mul(2) {
            self.window += 1;
        }
        let fits = EXPECTED_BYTES_MAX / self.recent_bytes;
        self.window = self.window.min(WINDOW_MAX).min(fits).max(1);
        self.under_way = self.under_way.saturating_sub(1);
        if self.under_way == 0 {
            self.peak = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    /// Asks for as many as the window lets through, and returns how many.
    fn fill(window: &mut AnswerWindow, unsent_bytes: usize) -> usize {
        let mut asked = 0;
        while window.is_open(unsent_bytes) {
            window.asked(1);
            asked += 1;
        }
        asked
    }

    /// The sizes of rounds of answers of `bytes` each, all sent at once.
    fn rounds(window: &mut AnswerWindow, bytes: usize, count: usize) -> Vec<usize> {
        let round = |_| {
            let asked = fill(window, 0);
            (0..asked).for_each(|_| window.answered(bytes));
            asked
        };
        (0..count).map(round).collect()
    }

    #[test]
    fn small_answers_double_the_window_and_it_is_kept() {
        let mut window = AnswerWindow::new();
        assert_eq!(rounds(&mut window, 100, 8), [2, 4, 8, 16, 32, 64, 128, 128]);
    }

    #[test]
    fn one_at_a_time_teaches_nothing_about_many() {
        let mut window = AnswerWindow::new();
        for _ in 0..1000 {
            window.asked(1);
            window.answered(100);
        }
        assert_eq!(fill(&mut window, 0), 2);
    }

    #[test]
    fn large_answers_cut_the_window_to_what_fits() {
        let mut window = AnswerWindow::new();
        rounds(&mut window, 100, 8);
        window.asked(1);
        window.answered(5 * MIB);
        assert_eq!(fill(&mut window, 0), EXPECTED_BYTES_MAX / (5 * MIB));
        let mut window = AnswerWindow::new();
        assert_eq!(rounds(&mut window, 64 * MIB, 3), [2, 1, 1]);
    }

    #[test]
    fn what_is_not_sent_yet_counts() {
        let mut window = AnswerWindow::new();
        rounds(&mut window, 4 * MIB, 4);
        assert_eq!(fill(&mut window, 24 * MIB), 2);
        let window = AnswerWindow::new();
        assert!(window.is_open(EXPECTED_BYTES_MAX - 1));
        assert!(!window.is_open(EXPECTED_BYTES_MAX));
    }

    #[test]
    fn after_large_answers_small_ones_open_it_again() {
        let mut window = AnswerWindow::new();
        rounds(&mut window, 64 * MIB, 2);
        assert_eq!(rounds(&mut window, 100, 60).last(), Some(&WINDOW_MAX));
    }
}
