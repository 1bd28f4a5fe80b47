//! Nodes of a program before tokens. One would break its link at a token that is sent to it, and stop at one in its log:
//! so none is sent where such a node may lead, as far as links are open and tell.

use super::book::Book;
use super::lane::Fate;
use super::slot_queue::SlotQueue;
use super::{Dispatch, LinkEvent};
use crate::backend::{Answered, Refusal};
use shard_core::op::Op;
use shard_core::{GroupId, NodeId};

impl Dispatch {
    /// What a link tells of its node.
    pub(super) fn note_older(&mut self, node: NodeId, event: LinkEvent) {
        match event {
            LinkEvent::UpToOlder => self.book.older.insert(node),
            LinkEvent::Up | LinkEvent::Down => self.book.older.remove(&node),
        };
    }

    /// Whether one that may lead the group is such a node.
    pub(super) fn has_older(&self, id: GroupId) -> bool {
        let older = &self.book.older;
        !older.is_empty() && self.view.map.may_lead(id).iter().any(|node| older.contains(node))
    }
}

impl SlotQueue {
    /// Refuses all writes with tokens that are to be sent, or sent again. What may have been executed by then is asked for
    /// by a void: its client hears the answer, or that nothing was executed.
    pub(super) fn refuse_tokens(&mut self, book: &mut Book) {
        let is_token = |op: &Op| matches!(op, Op::Token(_));
        let refused = Answered::Refused(Refusal::OlderNode);
        self.drop_unsent(book, |op, book| {
            let token = is_token(&op.op);
            if token {
                book.answer(&mut op.ticket, refused.clone());
            }
            token
        });
        let Some(lane) = &mut self.lane else { return };
        for op in lane.ops.iter_mut().filter(|op| op.fate == Fate::Waiting && is_token(&op.op)) {
            match op.open {
                0 => book.answer(&mut op.ticket, refused.clone()),
                _ => self.sure = Refusal::OlderNode,
            }
            op.make_void();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, SLOT, T0, append, is_void, not_leader, seqs};
    use super::*;
    use crate::backend::{Target, Work};
    use shard_core::op::{Outcome, Token};
    use shard_core::session::{LogTime, SessionId};
    use shard_core::wire::Answer;

    fn token(bench: &mut Bench) -> u64 {
        let (name, op) = (SessionId::of_token(1), append(b"v"));
        let token = Token { name, hash: 1, window_ms: 600_000, op };
        bench.submit(Target::Slot(SLOT), Work::Op(Op::Token(Box::new(token))))
    }

    const OLDER: Option<Refusal> = Some(Refusal::OlderNode);

    #[test]
    fn a_token_is_not_sent_where_an_older_node_may_lead() {
        for older in 1..=3 {
            let mut bench = Bench::running();
            bench.link(older, LinkEvent::UpToOlder);
            let (one, _plain, other) = (token(&mut bench), bench.append(), token(&mut bench));
            let sent = bench.poll();
            assert_eq!((seqs(&sent), &sent[0].lane().op), (vec![2], &append(b"v")));
            assert_eq!([one, other].map(|ticket| bench.refusal(ticket)), [OLDER; 2]);
            bench.done(&sent[0]);
            // Its program is another one now.
            bench.link(older, LinkEvent::Down);
            bench.link(older, LinkEvent::Up);
            let ticket = token(&mut bench);
            let mut sent = bench.poll();
            while sent.is_empty() {
                sent = bench.sleep();
            }
            assert!(matches!(sent[0].lane().op, Op::Token(_)), "{sent:?}");
            bench.done(&sent[0]);
            assert_eq!(bench.answer(ticket), Some(&Answered::Outcome(Outcome::Integer(1))));
        }
    }

    #[test]
    fn one_that_may_have_been_executed_is_asked_for_by_a_void() {
        for executed in [true, false] {
            let mut bench = Bench::running();
            let ticket = token(&mut bench);
            let sent = bench.poll();
            bench.link(2, LinkEvent::UpToOlder);
            bench.reply(&sent[0], Answer::Lost);
            let again = bench.sleep();
            assert!(seqs(&again) == [2] && is_void(&again[0]), "{again:?}");
            let outcome = if executed { Outcome::Integer(7) } else { Outcome::Values(Vec::new()) };
            bench.reply(&again[0], Answer::Done { outcome, log_time: LogTime(T0) });
            bench.poll();
            match executed {
                true => {
                    assert_eq!(bench.answer(ticket), Some(&Answered::Outcome(Outcome::Integer(7))));
                }
                false => assert_eq!(bench.refusal(ticket), OLDER),
            }
        }
    }

    #[test]
    fn one_that_surely_was_not_is_refused_and_its_place_filled() {
        let mut bench = Bench::running();
        let ticket = token(&mut bench);
        let sent = bench.poll();
        bench.link(2, LinkEvent::UpToOlder);
        bench.reply(&sent[0], not_leader(Some(2)));
        let again = bench.poll();
        assert!(again[0].node == 2 && seqs(&again) == [2] && is_void(&again[0]), "{again:?}");
        assert_eq!(bench.refusal(ticket), OLDER);
    }
}
