//! Commands that wait for the end of a checkpoint, in their order.
//!
//! Their number and size are bounded by what each group may ask for: one step of a checkpoint and its end,
//! one install, one deletion, one discard of what is here, and pieces of snapshots, whose bytes who gives
//! them bounds ([`crate::snapshot_bytes`]). A discard of what is not here takes the place of the pieces
//! that it is of: offers of a peer that changes its mind without end leave nothing behind.

use super::Command;
use raft_core::snapshot::SnapshotId;
use raft_core::types::GroupId;
use std::collections::VecDeque;

#[derive(Default)]
pub(super) struct Pending(VecDeque<Command>);

impl Pending {
    pub(super) fn push(&mut self, command: Command) {
        self.0.push_back(command);
    }

    /// What was taken out comes first again.
    pub(super) fn put_back(&mut self, command: Command) {
        self.0.push_front(command);
    }

    /// A discard, of a snapshot of which something is in the file, or nothing is.
    pub(super) fn discard(&mut self, group: GroupId, id: SnapshotId, here: bool) {
        let of = |piece: &super::writer::Piece| piece.group == group && piece.snapshot.id == id;
        self.0.retain(|command| !matches!(command, Command::Stage(piece) if of(piece)));
        let known = |command: &Command| matches!(command, Command::Discard(g, i) if (*g, *i) == (group, id));
        if here && !self.0.iter().any(known) {
            self.0.push_back(Command::Discard(group, id));
        }
    }

    pub(super) fn pop(&mut self) -> Option<Command> {
        self.0.pop_front()
    }

    /// What waits for the group whose checkpoint is under way. It may have waited already when the
    /// checkpoint began, and the other commands wait for it.
    pub(super) fn pop_own(&mut self, group: GroupId) -> Option<Command> {
        let own = self.0.iter().position(|command| match command {
            Command::Changes(of, _)
            | Command::Commit(of, _)
            | Command::Flip(of, _)
            | Command::Forget(of) => *of == group,
            Command::Stage(_) | Command::Discard(..) | Command::Installed(_) => false,
        })?;
        self.0.remove(own)
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::Piece;
    use super::*;
    use raft_core::conf::Conf;
    use raft_core::snapshot::Snapshot;
    use raft_core::types::{Index, NodeId};

    const G: GroupId = GroupId(1);

    fn id(hash: u64) -> SnapshotId {
        SnapshotId { hash, ..SnapshotId::default() }
    }

    fn piece(hash: u64) -> Command {
        let conf = (Index(0), Conf::of_voters(vec![NodeId(1)]));
        let snapshot = Snapshot { id: id(hash), bytes: 9, conf };
        Command::Stage(Piece { group: G, snapshot, offset: 0, bytes: vec![0; 9].into() })
    }

    /// A leader that offers another snapshot each time, while a checkpoint goes on and on.
    #[test]
    fn offers_without_end_leave_one_discard() {
        let mut pending = Pending::default();
        pending.push(Command::Installed(GroupId(2)));
        for hash in 1..10_000 {
            pending.push(piece(hash));
            pending.discard(G, id(7), true);
            pending.discard(G, id(hash), hash == 7);
        }
        pending.push(piece(7));
        assert!(matches!(pending.pop(), Some(Command::Installed(GroupId(2)))));
        assert!(matches!(pending.pop(), Some(Command::Discard(G, of)) if of == id(7)));
        assert!(matches!(pending.pop(), Some(Command::Stage(of)) if of.snapshot.id == id(7)));
        assert!(pending.pop().is_none());
    }
}
