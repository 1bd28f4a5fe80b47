//! The state machines: scripts of `golden/shard`, and seeds against a model.
//!
//! Recorded anew with `UPDATE_GOLDENFILES=1 cargo test -p tests --test shard`.

use bytes::Bytes;
use harness::shard_script::ShardScript;
use raft_core::random::Random;
use shard_core::GroupId;
use shard_core::cluster_config::ConfigNum;
use shard_core::codec::{EntryBatch, EntryItem, decode_batch, encode_batch};
use shard_core::op::{Expire, ExpireAt, ExpiryCommand, Op, OpError, Outcome, Set, SetExpiry};
use shard_core::session::{LogTime, SESSION_AHEAD_MS_MAX, SESSION_LIFE_MS, Seq, SessionId};
use shard_core::shard_store::{ShardStore, StoreStats};
use shard_core::slot::{Slot, hash_slot};
use shard_core::wire::{Answer, GroupAnswer, GroupQuery, LaneRequest};
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn golden_scripts() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/shard");
    let mut scripts: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|script| script.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {dir}");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut ShardScript::default(), &script).unwrap();
    }
}

/// Ops of many sessions, sent once or often, in order or not, at times that jump: two stores agree
/// after each entry, and every op has had its effect once or never, as its answer says.
#[test]
fn seeds_agree_with_the_model() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.entry();
        }
        world.end();
        let kinds = world.seen.len();
        assert_eq!(kinds, KINDS, "seed {seed} met {:?}", world.seen);
    }
}

/// What a seed has to meet to have tested anything: executed, repeated, old, gap, elsewhere,
/// expired, too far, group, refused for memory.
const KINDS: usize = 9;
const KEYS: u64 = 12;

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

struct World {
    random: Random,
    stores: [ShardStore; 2],
    /// The slots of two keys in three.
    owned: BTreeSet<Slot>,
    now: u64,
    /// The entry is of a leader whose memory is full.
    full: bool,
    sessions: u128,
    /// What a correct store holds: value and expiry.
    keys: BTreeMap<Bytes, (Bytes, Option<u64>)>,
    lanes: BTreeMap<(SessionId, Slot), ModelLane>,
    /// Everything ever sent, to be sent again.
    sent: Vec<LaneRequest>,
    seen: BTreeMap<&'static str, u32>,
}

#[derive(Default)]
struct ModelLane {
    acked: Seq,
    outcomes: Vec<Outcome>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            random: Random::new(seed),
            stores: [(); 2].map(|()| ShardStore::new(GroupId(1))),
            owned: (0..KEYS).filter(|n| n % 3 > 0).map(|n| hash_slot(&key(n))).collect(),
            now: 1_000_000,
            full: false,
            sessions: 1,
            keys: BTreeMap::new(),
            lanes: BTreeMap::new(),
            sent: Vec::new(),
            seen: BTreeMap::new(),
        };
        let ranges = world.owned.iter().map(|slot| (*slot, *slot)).collect();
        let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
        world.apply(world.now, vec![assign]);
        world
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    /// One entry with a few items, whose answers have to be the model's.
    fn entry(&mut self) {
        let stamp = match self.below(10) {
            0 => self.now.saturating_sub(self.below(5000)),
            1 => self.now + self.below(SESSION_LIFE_MS / 4),
            _ => self.now + self.below(300),
        };
        self.full = self.below(8) == 0;
        self.now = self.now.max(stamp);
        if self.below(12) == 0 {
            self.sessions += 1;
        }
        let mut expected = Vec::new();
        let mut items = Vec::new();
        for _ in 0..self.below(6) {
            let (item, answer) = match self.below(12) {
                0 => {
                    let (keys, expires) = self.key_count();
                    let counts = Answer::Group(GroupAnswer::KeyCount { keys, expires });
                    (EntryItem::Group(GroupQuery::KeyCount), counts)
                }
                1..=4 if !self.sent.is_empty() => {
                    let again = self.below(self.sent.len() as u64) as usize;
                    self.lane(self.sent[again].clone())
                }
                _ => {
                    let request = self.request();
                    self.sent.push(request.clone());
                    self.lane(request)
                }
            };
            items.push(item);
            expected.push(answer);
        }
        let answers = self.apply(stamp, items.clone());
        for ((item, answer), expected) in items.iter().zip(&answers).zip(&expected) {
            assert_eq!(answer, expected, "at {} for {item:?}", self.now);
        }
    }

    fn apply(&mut self, stamp: u64, items: Vec<EntryItem>) -> Vec<Answer> {
        let batch = EntryBatch { stamp: LogTime(stamp), items, full: self.full };
        let bytes = encode_batch(&batch);
        let [a, b] = &mut self.stores;
        let answers = a.apply(batch);
        assert_eq!(answers, b.apply(decode_batch(&bytes).unwrap()));
        assert_eq!(a.digest(), b.digest());
        answers
    }

    /// An op of one of the newest sessions, mostly the next of its lane.
    fn request(&mut self) -> LaneRequest {
        let key = key(self.below(KEYS));
        let slot = hash_slot(&key);
        let session = SessionId(self.sessions.saturating_sub(u128::from(self.below(3))));
        let known = self.sent.iter().find(|request| request.session == session);
        let deadline = known.map_or(LogTime(self.now + SESSION_LIFE_MS), |known| known.deadline);
        let (session, deadline) = match self.below(20) {
            0 => self.hasty_session(),
            _ => (session, deadline),
        };
        let last = self.lanes.get(&(session, slot)).map_or(0, |lane| lane.outcomes.len() as u64);
        let seq = last + if self.below(10) == 0 { 2 } else { 1 };
        LaneRequest {
            session,
            deadline,
            slot,
            seq: Seq(seq),
            acked: Seq(last.saturating_sub(self.below(4)).min(seq - 1)),
            op: self.op(key),
        }
    }

    /// One whose deadline is too far ahead for now, but may not be when its op is sent again.
    fn hasty_session(&mut self) -> (SessionId, LogTime) {
        let ahead = SESSION_AHEAD_MS_MAX + 1 + self.below(SESSION_LIFE_MS);
        (SessionId(1 << 100 | self.sent.len() as u128), LogTime(self.now + ahead))
    }

    fn op(&mut self, key: Bytes) -> Op {
        let value = Bytes::from(self.below(1000).to_string());
        match self.below(8) {
            0 => Op::Get { key },
            1 | 2 => Op::Append { key, value },
            3 | 4 => Op::IncrBy { key, by: self.below(100) as i64 - 50 },
            5 => Op::Del { keys: vec![key] },
            6 => Op::Set(Set {
                key,
                value,
                expiry: match self.below(2) {
                    0 => SetExpiry::Keep,
                    _ => SetExpiry::AfterMs(1 + self.below(2000) as i64),
                },
                condition: None,
                get: false,
                command: ExpiryCommand::Set,
            }),
            _ => Op::Expire(Expire {
                key,
                at: ExpireAt::AfterMs(self.below(2000) as i64 - 100),
                nx: false,
                xx: false,
                gt: false,
                lt: false,
                command: ExpiryCommand::PExpire,
            }),
        }
    }

    /// What a correct store answers.
    fn lane(&mut self, request: LaneRequest) -> (EntryItem, Answer) {
        let log_time = LogTime(self.now);
        let (kind, answer) = if !self.owned.contains(&request.slot) {
            ("elsewhere", Answer::Elsewhere)
        } else if request.deadline.0 > self.now + SESSION_AHEAD_MS_MAX {
            ("too far", Answer::DeadlineTooFar { log_time })
        } else if self.now > request.deadline.0 {
            ("expired", Answer::Expired { log_time })
        } else {
            self.lane_in_time(&request)
        };
        *self.seen.entry(kind).or_insert(0) += 1;
        (EntryItem::Lane(request), answer)
    }

    fn lane_in_time(&mut self, request: &LaneRequest) -> (&'static str, Answer) {
        let log_time = LogTime(self.now);
        let lane = self.lanes.entry((request.session, request.slot)).or_default();
        let last = lane.outcomes.len() as u64;
        if request.seq <= lane.acked {
            return ("old", Answer::Old);
        }
        if request.seq.0 <= last {
            let outcome = lane.outcomes[request.seq.0 as usize - 1].clone();
            return ("repeated", Answer::Done { outcome, log_time });
        }
        if request.seq.0 > last + 1 {
            return ("gap", Answer::Gap { last: Seq(last) });
        }
        lane.acked = lane.acked.max(request.acked);
        let grows = matches!(request.op, Op::Append { .. } | Op::IncrBy { .. } | Op::Set(_));
        let (kind, outcome) = match self.full && grows {
            true => ("out of memory", Outcome::Error(OpError::OutOfMemory)),
            false => ("executed", self.execute(&request.op)),
        };
        let lane = self.lanes.get_mut(&(request.session, request.slot)).unwrap();
        lane.outcomes.push(outcome.clone());
        (kind, Answer::Done { outcome, log_time })
    }

    fn execute(&mut self, op: &Op) -> Outcome {
        let now = self.now;
        self.keys.retain(|_, (_, expires)| expires.is_none_or(|at| at > now));
        match op {
            Op::Get { key } => match self.keys.get(key) {
                Some((value, _)) => Outcome::Value(value.clone()),
                None => Outcome::Nil,
            },
            Op::Append { key, value } => {
                let (old, _) = self.keys.entry(key.clone()).or_default();
                *old = [&old[..], value].concat().into();
                Outcome::Integer(old.len() as i64)
            }
            Op::IncrBy { key, by } => {
                let old = self.keys.get(key).cloned().unwrap_or(("0".into(), None));
                let text = std::str::from_utf8(&old.0).unwrap();
                match text.parse::<i64>().ok().filter(|number| number.to_string() == text) {
                    None => Outcome::Error(OpError::NotAnInteger),
                    Some(number) => match number.checked_add(*by) {
                        None => Outcome::Error(OpError::Overflow),
                        Some(sum) => {
                            self.keys.insert(key.clone(), (sum.to_string().into(), old.1));
                            Outcome::Integer(sum)
                        }
                    },
                }
            }
            Op::Del { keys } => Outcome::Integer(self.keys.remove(&keys[0]).is_some().into()),
            Op::Set(set) => {
                let expires = match set.expiry {
                    SetExpiry::AfterMs(ms) => Some(now + ms as u64),
                    _ => self.keys.get(&set.key).and_then(|(_, expires)| *expires),
                };
                self.keys.insert(set.key.clone(), (set.value.clone(), expires));
                Outcome::Ok
            }
            Op::Expire(Expire { key, at: ExpireAt::AfterMs(ms), .. }) => {
                let Some((_, expires)) = self.keys.get_mut(key) else {
                    return Outcome::Integer(0);
                };
                match u64::try_from(*ms) {
                    Ok(ms @ 1..) => *expires = Some(now + ms),
                    _ => drop(self.keys.remove(key)),
                }
                Outcome::Integer(1)
            }
            other => panic!("the model has no {other:?}"),
        }
    }

    fn key_count(&mut self) -> (u64, u64) {
        *self.seen.entry("group").or_insert(0) += 1;
        let now = self.now;
        let live = |expires: &Option<u64>| expires.is_none_or(|at| at > now);
        let live: Vec<_> = self.keys.values().filter(|(_, expires)| live(expires)).collect();
        let expires = live.iter().filter(|(_, expires)| expires.is_some()).count();
        (live.len() as u64, expires as u64)
    }

    /// Every key is as it should be; once all is deleted and all sessions are over, nothing is left.
    fn end(&mut self) {
        self.full = false;
        let deadline = LogTime(self.now + SESSION_LIFE_MS);
        for number in 0..KEYS {
            self.sessions += 1;
            let key = key(number);
            let get = LaneRequest {
                session: SessionId(self.sessions),
                deadline,
                slot: hash_slot(&key),
                seq: Seq(1),
                acked: Seq(0),
                op: Op::Get { key },
            };
            let flush = LaneRequest { seq: Seq(2), op: Op::FlushSlot, ..get.clone() };
            let (get, expected) = self.lane(get);
            let answers = self.apply(self.now, vec![get, EntryItem::Lane(flush)]);
            assert_eq!(answers[0], expected);
        }
        self.now += 2 * SESSION_AHEAD_MS_MAX;
        let lanes = self.stores[0].stats().lanes;
        for _ in 0..=lanes / 64 {
            self.apply(self.now, Vec::new());
        }
        assert_eq!(self.stores[0].stats(), StoreStats::default());
    }
}
