//! How far slots are on their way, as CLUSTER REBALANCE STATUS tells it.

use indicatif::HumanBytes;
use router::talk::Said;
use serde::Serialize;

/// What of the moves is left at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Moves {
    /// `balanced`, `moving` or `paused`.
    pub(super) state: String,
    /// The configuration that the one who was asked knows.
    pub(super) config: u64,
    pub(super) slots_to_move: u64,
    moves_running: u64,
    slots_refused: u64,
    slots_cancelled: u64,
    /// None, as of those below: not everybody tells it just now.
    keys_to_move: Option<u64>,
    bytes_to_move: Option<u64>,
    slots_per_second: Option<u64>,
    bytes_per_second: Option<u64>,
    seconds_left: Option<u64>,
}

/// `1 slot`, `2 slots`.
pub(super) fn count(number: u64, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

impl Moves {
    pub(super) fn of(said: &Said) -> Option<Moves> {
        let number = |name| said.field(name)?.number();
        Some(Moves {
            state: said.field("state")?.text()?.to_owned(),
            config: number("config")?,
            slots_to_move: number("slots-to-move")?,
            moves_running: number("moves-running")?,
            slots_refused: number("slots-refused")?,
            slots_cancelled: number("slots-cancelled")?,
            keys_to_move: number("keys-to-move"),
            bytes_to_move: number("bytes-to-move"),
            slots_per_second: number("slots-per-second"),
            bytes_per_second: number("bytes-per-second"),
            seconds_left: number("seconds-left"),
        })
    }

    /// What is left, after the number of slots.
    pub(super) fn details(&self) -> String {
        let mut parts = Vec::new();
        if let (Some(keys), Some(bytes)) = (self.keys_to_move, self.bytes_to_move) {
            parts.push(format!("{} of {}", count(keys, "key"), HumanBytes(bytes)));
        }
        parts.push(format!("{} at once", count(self.moves_running, "move")));
        if let Some(rate) = self.slots_per_second {
            let bytes = self.bytes_per_second.map(|rate| format!(" and {}", HumanBytes(rate)));
            parts.push(format!("{}{} a second", count(rate, "slot"), bytes.unwrap_or_default()));
        }
        parts.extend(self.seconds_left.map(|left| format!("{} left", count(left, "second"))));
        let of = |number, what| (number > 0).then(|| format!("{} {what}", count(number, "slot")));
        parts.extend(of(self.slots_refused, "refused for now"));
        parts.extend(of(self.slots_cancelled, "cancelled"));
        if self.state == "paused" {
            parts.push("paused".into());
        }
        parts.join(", ")
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        match self.slots_to_move {
            0 => "no slots are to move".into(),
            slots => format!("{} to move: {}", count(slots, "slot"), self.details()),
        }
    }

    /// Why nothing of what is left moves by itself; None: some of it does.
    pub(super) fn stays(&self) -> Option<String> {
        let slots = count(self.slots_to_move, "slot");
        match (self.slots_to_move, self.moves_running) {
            (0, _) | (_, 1..) => None,
            _ if self.state == "paused" => Some(format!(
                "moves are paused, with {slots} to move: CLUSTER REBALANCE RESUME lets them go on"
            )),
            (left, 0) if self.slots_cancelled >= left => Some(format!(
                "{slots} that should move stay where they are, since their moves were cancelled: CLUSTER \
                 REBALANCE RESUME orders them again"
            )),
            (_, 0) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(state: &str, numbers: [Said; 10]) -> Said {
        let names = [
            "config",
            "slots-to-move",
            "moves-running",
            "slots-refused",
            "slots-cancelled",
            "keys-to-move",
            "bytes-to-move",
            "slots-per-second",
            "bytes-per-second",
            "seconds-left",
        ];
        let text = |text: &str| Said::Text(text.into());
        let mut items = vec![text("state"), text(state)];
        items.extend(names.iter().zip(numbers).flat_map(|(name, number)| [text(name), number]));
        Said::Items(items)
    }

    fn moves(state: &str, numbers: [i64; 10]) -> Moves {
        let number = |number| if number < 0 { Said::Nil } else { Said::Integer(number) };
        Moves::of(&said(state, numbers.map(number))).expect("all fields")
    }

    #[test]
    fn what_is_left_is_one_line_and_what_nobody_tells_is_not_in_it() {
        let line = |state, numbers| moves(state, numbers).line();
        assert_eq!(
            line("moving", [3, 4956, 32, 0, 0, 18, 8604, 113, 2048, 44]),
            "4956 slots to move: 18 keys of 8.40 KiB, 32 moves at once, 113 slots and 2.00 KiB a second, 44 seconds \
             left"
        );
        assert_eq!(
            line("moving", [3, 1, 1, 0, 0, -1, -1, -1, -1, -1]),
            "1 slot to move: 1 move at once"
        );
        assert_eq!(
            line("paused", [3, 9, 0, 1, 2, 1, 1, -1, -1, -1]),
            "9 slots to move: 1 key of 1 B, 0 moves at once, 1 slot refused for now, 2 slots cancelled, paused"
        );
        assert_eq!(line("balanced", [3, 0, 0, 0, 0, 0, 0, -1, -1, 0]), "no slots are to move");
        assert_eq!(Moves::of(&Said::Items(Vec::new())), None);
    }

    #[test]
    fn what_does_not_go_on_by_itself_is_told_with_what_lets_it() {
        let stays = |state, numbers| moves(state, numbers).stays();
        assert_eq!(
            stays("moving", [3, 5, 0, 5, 0, 0, 0, -1, -1, -1]),
            None,
            "tried again by itself"
        );
        assert_eq!(stays("moving", [3, 5, 0, 0, 4, 0, 0, -1, -1, -1]), None);
        assert_eq!(stays("moving", [3, 5, 1, 0, 5, 0, 0, -1, -1, -1]), None);
        assert_eq!(stays("paused", [3, 5, 1, 0, 0, 0, 0, -1, -1, -1]), None, "one runs");
        assert_eq!(stays("paused", [3, 0, 0, 0, 0, 0, 0, -1, -1, -1]), None);
        let paused = stays("paused", [3, 5, 0, 0, 0, 0, 0, -1, -1, -1]).expect("a sentence");
        assert!(paused.starts_with("moves are paused, with 5 slots to move: "), "{paused}");
        let held = stays("moving", [3, 5, 0, 0, 5, 0, 0, -1, -1, -1]).expect("a sentence");
        assert!(held.contains("5 slots") && held.contains("RESUME"), "{held}");
    }

    #[test]
    fn the_names_of_its_fields_are_those_of_the_manual() {
        let json = serde_json::to_string(&moves("moving", [3, 5, 1, 0, 0, 7, 8, -1, -1, -1]));
        assert_eq!(
            json.expect("an object"),
            "{\"state\":\"moving\",\"config\":3,\"slots_to_move\":5,\"moves_running\":1,\"slots_refused\":0,\
             \"slots_cancelled\":0,\"keys_to_move\":7,\"bytes_to_move\":8,\"slots_per_second\":null,\
             \"bytes_per_second\":null,\"seconds_left\":null}"
        );
    }
}
