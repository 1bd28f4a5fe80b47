//! The lanes of one slot.

use super::{Lane, LogTime, SessionId};
use std::collections::BTreeMap;
use std::ops::Bound;

/// There is one for each router core and live session, a handful, and each op looks one up.
///
/// What is remembered of a token is a lane too, with one op, whose seq is a hash of the command. Of those a slot may
/// have many.
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    /// Of the router's session that came last: nearly everywhere the only one whose ops still come. It is where the slot
    /// is, so that such an op waits for no other place in memory.
    newest: Option<(SessionId, Lane)>,
    others: Option<Box<Others>>,
}

#[derive(Clone, Debug, Default)]
struct Others {
    /// In the order of their sessions.
    routers: Vec<(SessionId, Lane)>,
    tokens: BTreeMap<SessionId, Lane>,
}

impl Others {
    fn find(&self, session: SessionId) -> Result<usize, usize> {
        self.routers.binary_search_by_key(&session, |(id, _)| *id)
    }

    fn put(&mut self, (session, lane): (SessionId, Lane)) {
        let at = self.find(session).expect_err("a session has one lane in a slot");
        self.routers.insert(at, (session, lane));
    }

    /// Takes the one out that lasts longest.
    fn take_newest(&mut self) -> Option<(SessionId, Lane)> {
        let ends = self.routers.iter().enumerate().map(|(at, (_, lane))| (lane.deadline, at));
        ends.max().map(|(_, at)| self.routers.remove(at))
    }

    fn is_empty(&self) -> bool {
        self.routers.is_empty() && self.tokens.is_empty()
    }
}

impl Lanes {
    /// Of lanes that are in the order of their sessions.
    pub(crate) fn of_sorted(mut lanes: Vec<(SessionId, Lane)>) -> Lanes {
        let tokens = lanes.split_off(lanes.partition_point(|(id, _)| !id.is_of_token()));
        let mut others = Others { routers: lanes, tokens: tokens.into_iter().collect() };
        let newest = others.take_newest();
        Lanes { newest, others: (!others.is_empty()).then(|| Box::new(others)) }
    }

    /// D of the newest session; 0: there is none.
    pub(crate) fn newest_deadline(&self) -> LogTime {
        self.newest.as_ref().map_or(LogTime(0), |(_, lane)| lane.deadline())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let others = self.others.as_ref().map_or(0, |it| it.routers.len() + it.tokens.len());
        usize::from(self.newest.is_some()) + others
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lane of a session.
    pub fn get(&self, session: SessionId) -> Option<&Lane> {
        match &self.newest {
            Some((newest, lane)) if *newest == session => return Some(lane),
            _ => {}
        }
        let others = self.others.as_ref()?;
        if session.is_of_token() {
            return others.tokens.get(&session);
        }
        others.find(session).ok().map(|at| &others.routers[at].1)
    }

    /// The lane of a session, made by `new` if there is none.
    pub fn get_or_insert_with(
        &mut self,
        session: SessionId,
        new: impl FnOnce() -> Lane,
    ) -> &mut Lane {
        if session.is_of_token() {
            let others = self.others.get_or_insert_default();
            return others.tokens.entry(session).or_insert_with(new);
        }
        let is_newest = self.newest.as_ref().is_some_and(|(newest, _)| *newest == session);
        if !is_newest {
            if let Some(others) = &mut self.others
                && let Ok(at) = others.find(session)
            {
                // Borrowed anew: what is returned here would be borrowed to the end.
                let others = self.others.as_mut().expect("it was found there");
                return &mut others.routers[at].1;
            }
            if let Some(older) = self.newest.take() {
                self.others.get_or_insert_default().put(older);
            }
        }
        &mut self.newest.get_or_insert_with(|| (session, new())).1
    }

    /// Takes a session's lane out.
    pub fn remove(&mut self, session: SessionId) -> Option<Lane> {
        let is_newest = self.newest.as_ref().is_some_and(|(newest, _)| *newest == session);
        let mut removed = is_newest.then(|| self.newest.take()).flatten().map(|(_, lane)| lane);
        if let Some(others) = &mut self.others {
            if is_newest {
                self.newest = others.take_newest();
            } else if session.is_of_token() {
                removed = others.tokens.remove(&session);
            } else if let Ok(at) = others.find(session) {
                removed = Some(others.routers.remove(at).1);
            }
            if others.is_empty() {
                self.others = None;
            }
        }
        removed
    }

    /// All of them, in the order of their sessions.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Lane)> {
        self.after(None)
    }

    /// Those of later sessions than one; of all with none.
    pub fn after(&self, session: Option<SessionId>) -> impl Iterator<Item = (SessionId, &Lane)> {
        let is_after = move |(id, _): &&(SessionId, Lane)| session.is_none_or(|it| *id > it);
        let newest = self.newest.as_ref();
        let routers = self.others.as_ref().map_or(&[][..], |others| &others.routers);
        let from = routers.partition_point(|it| !is_after(&it));
        let at = newest.map_or(routers.len(), |new| routers.partition_point(|it| it.0 < new.0));
        let (before, behind) = routers.split_at(at);
        let before = before.get(from..).unwrap_or_default().iter();
        let behind = behind.get(from.saturating_sub(at)..).unwrap_or_default().iter();
        let in_order = before.chain(newest.filter(is_after)).chain(behind);
        let lower = session.map_or(Bound::Unbounded, Bound::Excluded);
        let tokens =
            self.others.iter().flat_map(move |it| it.tokens.range((lower, Bound::Unbounded)));
        in_order.map(|(id, lane)| (*id, lane)).chain(tokens.map(|(id, lane)| (*id, lane)))
    }

    /// Those of tokens.
    pub(crate) fn tokens_mut(&mut self) -> impl Iterator<Item = (SessionId, &mut Lane)> {
        let tokens = self.others.iter_mut().flat_map(|others| others.tokens.iter_mut());
        tokens.map(|(name, lane)| (*name, lane))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every order in which three sessions and a token come and go leaves what a sorted map would hold.
    #[test]
    fn sessions_come_and_go_in_any_order() {
        let ids = [5, 3, 9].map(SessionId::of_router).into_iter().chain([SessionId::of_token(4)]);
        let ids: Vec<SessionId> = ids.collect();
        for steps in 0..8_u32.pow(6) {
            let (mut lanes, mut model) = (Lanes::default(), BTreeMap::new());
            for step in (0..6).map(|at| steps / 8_u32.pow(at) % 8) {
                let id = ids[step as usize % 4];
                let end = LogTime(u64::from(step) % 3);
                if step < 4 {
                    let lane = lanes.get_or_insert_with(id, || Lane::new(end));
                    assert_eq!(lane.deadline(), *model.entry(id).or_insert(end));
                } else {
                    assert_eq!(lanes.remove(id).map(|lane| lane.deadline()), model.remove(&id));
                }
                assert_eq!(lanes.get(id).map(Lane::deadline), model.get(&id).copied());
            }
            let all: Vec<_> = lanes.iter().map(|(id, lane)| (id, lane.deadline())).collect();
            let expected: Vec<_> = model.iter().map(|(id, end)| (*id, *end)).collect();
            assert_eq!((all, lanes.len()), (expected, model.len()), "steps {steps:o}");
            for id in &ids {
                let after: Vec<_> = lanes.after(Some(*id)).map(|(id, _)| id).collect();
                let later = model.keys().filter(|it| *it > id);
                assert_eq!(after, later.copied().collect::<Vec<_>>(), "steps {steps:o}");
            }
            let sorted =
                Lanes::of_sorted(lanes.iter().map(|(id, lane)| (id, lane.clone())).collect());
            assert!(sorted.iter().map(|it| it.0).eq(model.keys().copied()), "steps {steps:o}");
        }
    }
}
