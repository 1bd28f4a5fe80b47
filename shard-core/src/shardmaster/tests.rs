//! Seeds, bounds, and rows. What takes a few steps is a golden script: `tests/golden/master`.

use super::*;
use crate::checkpoint::RowChange;
use crate::cluster_config::{GroupConfig, NodeConfig, SHARDMASTER, SlotRange};
use crate::cluster_map::{
    GroupMembers, MOVES_MAX, MOVES_PER_GROUP_MAX, MOVES_PER_PAIR_MAX, MemberStep, MoveRecord,
};
use crate::codec::{decode_batch, encode_batch};
use crate::moves::{MoveId, MoveOutcome, RefuseReason, SlotEpoch};
use crate::rebalance::shares;
use crate::rows::{MasterRow, Row, RowError, RowFault};
use crate::shard_store::{Collected, RowBudget};
use crate::slot::SLOTS;
use bytes::Bytes;

mod administrators;

type Disk = BTreeMap<Bytes, Bytes>;

/// Nodes 1 to `nodes`, the first three of which are voters of groups 0 to `groups`.
fn bootstrap(nodes: u64, groups: u32) -> EntryItem {
    let seats = |weight| GroupConfig { voters: (1..=3).map(NodeId).collect(), weight };
    let node = |id| {
        let (peer, resp) = (format!("n{id}:7000"), format!("n{id}:6379"));
        (NodeId(id), NodeConfig { peer, resp })
    };
    let mut config = ClusterConfig {
        num: ConfigNum(1),
        cluster_id: "test".to_owned(),
        nodes: (1..=nodes).map(node).collect(),
        groups: (0..=groups).map(|group| (GroupId(group), seats(group.min(1)))).collect(),
        slots: Vec::new(),
    };
    config.assign_evenly();
    EntryItem::Bootstrap(config)
}

fn begun(nodes: u64, groups: u32) -> Shardmaster {
    let mut master = Shardmaster::new();
    master.apply(EntryBatch::new(LogTime(1), vec![bootstrap(nodes, groups)]));
    master
}

fn item(op: MasterOp) -> EntryItem {
    EntryItem::Master(MasterRequest { id: None, op })
}

fn execute(master: &mut Shardmaster, op: MasterOp) -> Result<MasterDone, MasterError> {
    let stamp = master.log_time();
    match master.apply(EntryBatch::new(stamp, vec![item(op)])).remove(0) {
        Answer::Master(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// What a group with these voters and nothing to do reports.
fn settled(follows: u64, voters: Vec<NodeId>) -> GroupMembers {
    let (follows, step) = (ConfigNum(follows), MemberStep::Settled);
    GroupMembers { follows, step, voters, learners: Vec::new() }
}

fn reports(record: &MoveRecord, outcome: MoveOutcome) -> Vec<MoveReport> {
    let order = record.order;
    let report = |side, by| MoveReport { id: order.id, slot: order.slot, by, side, outcome };
    let source = order.from.map(|from| report(Side::Source, from));
    source.into_iter().chain([report(Side::Destination, order.to)]).collect()
}

fn put(disk: &mut Disk, rows: Vec<RowChange>) {
    for row in rows {
        match row {
            RowChange::Put { key, head, body } => {
                disk.insert(key, body.behind(&head).into());
            }
            RowChange::Delete { key } => drop(disk.remove(&key)),
            RowChange::DeletePrefix { .. } => panic!("{row:?}"),
        }
    }
}

fn save(master: &mut Shardmaster, disk: &mut Disk) -> usize {
    master.freeze();
    let Collected { rows, done } =
        master.collect(RowBudget { rows: usize::MAX, bytes: usize::MAX });
    assert!(done);
    let count = rows.len();
    put(disk, rows);
    count
}

fn load(disk: &Disk) -> Result<Shardmaster, RowError> {
    let mut loader = MasterLoader::default();
    for (key, value) in disk {
        loader.row(key, value.clone()).map_err(|fault| RowError { row: key.to_vec(), fault })?;
    }
    loader.finish()
}

/// Two replicas, groups that carry out what is ordered in any order, and administrators who know nothing
/// of each other.
struct World {
    random: u64,
    masters: [Shardmaster; 2],
    now: u64,
    /// What each move's destination decided.
    decided: BTreeMap<MoveId, MoveOutcome>,
    /// Reports and wishes sent so far, to be sent again; a wish with its answer once it has one.
    reported: Vec<MoveReport>,
    wishes: Vec<(MasterRequest, Option<MasterDone>)>,
    /// Every configuration, as it was when it was new.
    configs: Vec<ClusterConfig>,
    epochs: Vec<u64>,
    moves: u64,
    disk: Disk,
    /// The checkpoint under way: the digest at its freeze, and the entries since.
    checkpoint: Option<(u64, Vec<Vec<u8>>)>,
    seen: BTreeMap<&'static str, u32>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            random: seed,
            masters: [Shardmaster::new(), Shardmaster::new()],
            now: 1000,
            decided: BTreeMap::new(),
            reported: Vec::new(),
            wishes: Vec::new(),
            configs: vec![ClusterConfig::default()],
            epochs: vec![0; usize::from(SLOTS)],
            moves: 0,
            disk: Disk::new(),
            checkpoint: None,
            seen: BTreeMap::new(),
        };
        let groups = 1 + world.below(3) as u32;
        world.apply(vec![bootstrap(5, groups)]);
        world
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn apply(&mut self, items: Vec<EntryItem>) -> Vec<Answer> {
        let before = self.masters[0].map().clone();
        let bytes = encode_batch(&EntryBatch::new(LogTime(self.now), items));
        let [a, b] = &mut self.masters;
        let answers = a.apply(decode_batch(&bytes).unwrap());
        assert_eq!(answers, b.apply(decode_batch(&bytes).unwrap()), "two replicas, one entry");
        assert_eq!(a.digest(), b.digest(), "two replicas, one entry");
        if let Some((_, entries)) = &mut self.checkpoint {
            entries.push(bytes);
        }
        self.check(&before);
        answers
    }

    /// What holds after every entry.
    fn check(&mut self, before: &ClusterMap) {
        let master = &self.masters[0];
        let map = master.map();
        map.check().unwrap();
        assert_eq!(map.version > before.version, map != before, "a version for each change");
        let mut copy = before.clone();
        copy.apply(&map.diff(before)).unwrap();
        assert_eq!(&copy, map, "who hears of each change has the map");
        assert_eq!(
            master.plan,
            Plan::of(map, master.log_time),
            "what is kept follows from the map"
        );

        // No slot is lost, and its epoch grows with each owner.
        for number in 0..SLOTS {
            let epoch = map.owners.of(Slot(number)).map_or(0, |(_, epoch)| epoch.0);
            let last = &mut self.epochs[usize::from(number)];
            let changed = map.owners.of(Slot(number)) != before.owners.of(Slot(number));
            assert_eq!(epoch > *last, changed, "slot {number}");
            *last = epoch;
        }
        // Numbers of moves grow, and only those that both sides reported are gone.
        for (id, record) in &map.moves {
            assert!(before.moves.contains_key(id) || id.0 > self.moves, "move {id} is not new");
            assert!(!record.is_reported(), "move {id} is asked for by nobody");
            if let Some(old) = before.moves.get(id) {
                assert_eq!(old.order, record.order, "move {id} was changed");
            }
        }
        self.moves = map.moves.keys().map(|id| id.0).max().unwrap_or(0).max(self.moves);
        for (id, record) in &before.moves {
            let is_known = self.decided.contains_key(id);
            assert!(
                map.moves.contains_key(id) || is_known,
                "move {:?} was forgotten",
                record.order
            );
        }
        let mut pairs: BTreeMap<_, u32> = BTreeMap::new();
        for record in map.unfinished() {
            *pairs.entry((record.order.from, record.order.to)).or_default() += 1;
        }
        assert!(pairs.values().all(|count| *count <= MOVES_PER_PAIR_MAX));
        // Nothing that can be moved waits for nothing.
        if !map.paused {
            for (pair, slots) in &master.plan.pending_slots() {
                let full = pairs.get(pair).is_some_and(|count| *count == MOVES_PER_PAIR_MAX);
                let owes = |group| {
                    map.moves.values().filter(move |record| record.owing().any(|g| g == group))
                };
                let mut sides = pair.0.into_iter().chain([pair.1]);
                let full =
                    full || sides.any(|group| owes(group).count() >= MOVES_PER_GROUP_MAX as usize);
                assert!(full, "{slots} slots of {pair:?} could be moved");
            }
        }
        if map.config.num != before.config.num {
            assert_eq!(map.config.num.0, before.config.num.0 + 1, "one number for a change");
            self.configs.push(map.config.clone());
        }
    }

    fn group(&mut self) -> GroupId {
        let groups: Vec<GroupId> = self.masters[0].newest().groups.keys().copied().collect();
        match self.below(12) {
            0 => GroupId(self.below(20) as u32),
            _ => groups[self.below(groups.len() as u64) as usize],
        }
    }

    fn voters(&mut self) -> Vec<NodeId> {
        let first = 1 + self.below(5);
        let count = 1 + self.below(3);
        (first..first + count).map(NodeId).collect()
    }

    fn ranges(&mut self) -> Vec<(Slot, Slot)> {
        let first = self.below(u64::from(SLOTS) + 1) as u16;
        let length = [0, 3, 40, 3000][self.below(4) as usize];
        vec![(Slot(first), Slot(first + length))]
    }

    fn wish(&mut self) -> MasterOp {
        let (group, node) = (self.group(), NodeId(1 + self.below(7)));
        match self.below(25) {
            0..=2 => MasterOp::CreateGroup {
                group: None,
                voters: self.voters(),
                weight: 1 + self.below(3) as u32,
                rebalance: self.below(4) > 0,
            },
            3 | 4 => MasterOp::DrainGroup { group },
            5 | 6 => MasterOp::RemoveGroup { group },
            7..=10 => MasterOp::MoveSlots { ranges: self.ranges(), to: group },
            11 => MasterOp::Rebalance { moves_max: None },
            12 => MasterOp::Rebalance { moves_max: Some(self.below(50) as u32) },
            13 => MasterOp::SetWeight { group, weight: 1 + self.below(3) as u32 },
            14 if self.below(2) == 0 => MasterOp::SetMembers { group, voters: self.voters() },
            14 => {
                let (add, remove) = (self.voters(), self.voters());
                MasterOp::ChangeMembers { group, add, remove }
            }
            15 => {
                let (port, resp) = (1 + self.below(3), format!("n{node}:6379"));
                let peer = format!("n{node}:{port}");
                MasterOp::AddNode { node, addresses: NodeConfig { peer, resp } }
            }
            16 => MasterOp::ForgetNode { node },
            17 => MasterOp::Pause,
            18 => MasterOp::Resume,
            19 => MasterOp::Cancel(Cancel::Slots(self.ranges())),
            20 if self.below(3) == 0 => MasterOp::Cancel(Cancel::All),
            21 => MasterOp::SetEvacuated { node, evacuated: self.below(2) == 0 },
            22 => MasterOp::UnassignSlots { ranges: self.ranges() },
            23 => {
                let new = NodeId(1 + self.below(6));
                MasterOp::ReplaceNode { old: node, new, group: Some(group) }
            }
            _ => {
                let newest = self.masters[0].newest();
                let seats = newest.groups.get(&group);
                let voters = seats.map_or(vec![node], |seats| seats.voters.clone());
                MasterOp::GroupConf { group, members: settled(newest.num.0, voters) }
            }
        }
    }

    fn administrator(&mut self) {
        // A wish whose answer was lost comes again, at any time.
        if self.below(5) == 0 && !self.wishes.is_empty() {
            let at = self.below(self.wishes.len() as u64) as usize;
            let (request, done) = self.wishes[at].clone();
            let num = self.masters[0].newest().num;
            let answer = self.ask(request);
            if let Some(done) = done {
                assert_eq!(answer, Ok(done), "a wish is carried out once");
                assert_eq!(self.masters[0].newest().num, num, "a wish is carried out once");
                self.note("repeated");
            } else {
                self.wishes[at].1 = answer.ok();
            }
            return;
        }
        let id = (self.below(2) == 0).then(|| RequestId(u128::from(self.below(u64::MAX))));
        let request = MasterRequest { id, op: self.wish() };
        let table = self.masters[0].newest().slot_table();
        let answer = self.ask(request.clone());
        let balances = match &request.op {
            MasterOp::CreateGroup { rebalance, .. } => *rebalance,
            MasterOp::DrainGroup { .. } => true,
            MasterOp::Rebalance { moves_max } => moves_max.is_none(),
            _ => false,
        };
        if answer.is_ok() && balances {
            let config = self.masters[0].newest();
            let weights = target::weights(config);
            let owns = |group| config.ranges_of(group).map(SlotRange::count).sum();
            let have: BTreeMap<GroupId, u32> = weights.keys().map(|g| (*g, owns(*g))).collect();
            assert_eq!(have, shares(&table, &weights), "balanced");
            self.note("balanced");
        }
        if id.is_some() {
            self.wishes.push((request, answer.ok()));
        }
    }

    /// What is refused changes nothing.
    fn ask(&mut self, request: MasterRequest) -> Result<MasterDone, MasterError> {
        self.apply(Vec::new());
        let digest = self.masters[0].digest();
        let Answer::Master(answer) = self.apply(vec![EntryItem::Master(request)]).remove(0) else {
            panic!("it was a wish")
        };
        if answer.is_err() {
            assert_eq!(self.masters[0].digest(), digest, "what is refused changes nothing");
        }
        self.note(if answer.is_ok() { "done" } else { "refused" });
        answer
    }

    /// Some side of some move says how it ended, or says so again.
    fn group_reports(&mut self) {
        let records: Vec<MoveRecord> = self.masters[0].map().moves.values().copied().collect();
        if records.is_empty() {
            return;
        }
        let mut items = Vec::new();
        for _ in 0..=self.below(20) {
            if self.below(8) == 0 && !self.reported.is_empty() {
                let at = self.below(self.reported.len() as u64) as usize;
                items.push(item(MasterOp::Report(self.reported[at])));
                continue;
            }
            let record = records[self.below(records.len() as u64) as usize];
            let outcome = match self.below(6) {
                0 => MoveOutcome::Refused(RefuseReason::OutOfMemory),
                1 if record.cancel => MoveOutcome::Refused(RefuseReason::Cancelled),
                _ => MoveOutcome::Activated,
            };
            let outcome = *self.decided.entry(record.order.id).or_insert(outcome);
            let sides = reports(&record, outcome);
            let report = sides[self.below(sides.len() as u64) as usize];
            self.reported.push(report);
            items.push(item(MasterOp::Report(report)));
        }
        let num = self.masters[0].newest().num;
        for answer in self.apply(items) {
            assert!(matches!(answer, Answer::Master(Ok(_))), "{answer:?}");
        }
        assert_eq!(self.masters[0].newest().num, num, "the end of a move takes no number");
        self.note("reports");
    }

    /// The second replica writes a part of a checkpoint, or begins one, or goes on with what it has written.
    fn disk(&mut self) {
        let Some((digest, entries)) = self.checkpoint.take() else {
            self.checkpoint = Some((self.masters[1].digest(), Vec::new()));
            self.masters[1].freeze();
            return;
        };
        let budget = RowBudget { rows: 1 + self.below(200) as usize, bytes: 1 << 20 };
        let Collected { rows, done } = self.masters[1].collect(budget);
        put(&mut self.disk, rows);
        if !done {
            self.checkpoint = Some((digest, entries));
            return;
        }
        let mut loaded = load(&self.disk).unwrap();
        assert_eq!(loaded.digest(), digest, "what was written is the state at the freeze");
        self.note("checkpoints");
        if self.below(2) == 0 {
            for entry in entries {
                loaded.apply(decode_batch(&entry).unwrap());
            }
            assert_eq!(loaded.digest(), self.masters[1].digest(), "the log makes up for the rest");
            self.masters[1] = loaded;
            self.note("restarts");
        }
    }

    fn step(&mut self) {
        match self.below(10) {
            0..=2 => self.administrator(),
            3..=6 => self.group_reports(),
            7 | 8 => self.disk(),
            _ => {
                self.now += self.below(40_000);
                self.apply(Vec::new());
            }
        }
    }

    /// With groups that take what they are given, every slot gets to where it is to be.
    fn end(&mut self) {
        self.apply(vec![item(MasterOp::Resume)]);
        for _ in 0..4000 {
            let records: Vec<MoveRecord> = self.masters[0].map().moves.values().copied().collect();
            if records.is_empty() && self.masters[0].map().waiting.is_empty() {
                break;
            }
            let mut items = Vec::new();
            for record in records {
                let id = record.order.id;
                let outcome = *self.decided.entry(id).or_insert(MoveOutcome::Activated);
                let sides = reports(&record, outcome).into_iter();
                items.extend(sides.map(|report| item(MasterOp::Report(report))));
            }
            self.now += BACK_OFF_MS_MAX;
            // The checks of every entry take long; there are many here.
            let bytes = encode_batch(&EntryBatch::new(LogTime(self.now), items));
            for master in &mut self.masters {
                master.apply(decode_batch(&bytes).unwrap());
            }
        }
        let master = &self.masters[0];
        assert_eq!(master.digest(), self.masters[1].digest());
        assert_eq!((master.map().moves.len(), master.map().waiting.len()), (0, 0), "all has ended");
        for (number, target) in (0..).zip(master.newest().slot_table()) {
            let owner = master.map().owners.of(Slot(number)).map(|(group, _)| group);
            assert_eq!(owner, target, "slot {number}");
        }
        for (number, config) in (0..).zip(&self.configs) {
            assert_eq!(&master.config(Some(ConfigNum(number))), config, "configuration {number}");
        }
    }
}

/// K1-K7, G1, G12: joins, leaves, moves, reports in any order, retries, checkpoints and restarts.
#[test]
fn k06_seeds_of_everything_at_once() {
    let mut seen = BTreeMap::new();
    for seed in 0..10 {
        let lived = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..250 {
                world.step();
            }
            world.end();
            world.seen
        });
        for (what, count) in lived.unwrap_or_else(|_| panic!("seed {seed}, see above")) {
            *seen.entry(what).or_insert(0) += count;
        }
    }
    for what in ["done", "refused", "repeated", "balanced", "reports", "checkpoints", "restarts"] {
        assert!(seen.get(what).is_some_and(|count| *count >= 10), "{what} in {seen:?}");
    }
}

/// K5 past the full copies that are kept now and then, from memory and from rows.
#[test]
fn k05_any_number_for_ever() {
    let mut master = begun(5, 2);
    let mut configs = vec![ClusterConfig::default(), master.newest().clone()];
    let mut disk = Disk::new();
    for number in 2..600 {
        let (to, first) = (GroupId(2), Slot(number * 7));
        let done = execute(&mut master, MasterOp::MoveSlots { ranges: vec![(first, first)], to });
        if done.unwrap().config.0 as usize == configs.len() {
            configs.push(master.newest().clone());
        }
        if number % 100 == 0 {
            save(&mut master, &mut disk);
        }
    }
    assert!(configs.len() > 520, "{} configurations", configs.len());
    save(&mut master, &mut disk);
    let loaded = load(&disk).unwrap();
    for (number, config) in (0..).zip(&configs) {
        assert_eq!(&master.config(Some(ConfigNum(number))), config);
        assert_eq!(&loaded.config(Some(ConfigNum(number))), config);
    }
    let newest = master.newest();
    for num in [None, Some(ConfigNum(configs.len() as u64)), Some(ConfigNum(u64::MAX))] {
        assert_eq!(&loaded.config(num), newest);
    }
    // Most are kept as what changed.
    let bytes: usize = master.history.bytes().map(Bytes::len).sum();
    assert!(bytes < 60 * configs.len(), "{bytes} bytes for {} configurations", configs.len());
}

#[test]
fn k07_the_newest_requests_are_remembered() {
    let mut master = begun(3, 1);
    let mut disk = Disk::new();
    let ask = |master: &mut Shardmaster, id: u64, weight: u32| {
        let (id, group) = (Some(RequestId(id.into())), GroupId(1));
        let op = MasterOp::SetWeight { group, weight };
        let items = vec![EntryItem::Master(MasterRequest { id, op })];
        master.apply(EntryBatch::new(LogTime(1), items));
    };
    for id in 0..REQUESTS_KEPT_MAX as u64 + 5 {
        ask(&mut master, id, 1 + (id % 2) as u32);
        if id == 700 {
            save(&mut master, &mut disk);
        }
    }
    assert_eq!(master.requests.len(), REQUESTS_KEPT_MAX);
    save(&mut master, &mut disk);
    let mut loaded = load(&disk).unwrap();
    assert_eq!(loaded.digest(), master.digest());
    let num = loaded.newest().num;
    ask(&mut loaded, 5, 2);
    assert_eq!(loaded.newest().num, num, "the oldest that is remembered");
    ask(&mut loaded, 4, 2);
    assert_ne!(loaded.newest().num, num, "one that is forgotten");
}

/// A group that never answers holds up its own moves alone, and not more than so many of any group.
#[test]
fn g13_a_dead_group_holds_up_no_other() {
    let mut master = begun(3, 40);
    // Group 1 is dead. All slots of the others go to all others; its own to them as well.
    let table = master.newest().slot_table();
    for to in 1..=40 {
        let mine = (0..SLOTS).filter(|s| s % 40 == (to - 1) as u16);
        let ranges = mine.map(|slot| (Slot(slot), Slot(slot))).collect();
        execute(&mut master, MasterOp::MoveSlots { ranges, to: GroupId(to) }).unwrap();
    }
    let is_dead = |record: &MoveRecord| {
        record.order.from == Some(GroupId(1)) || record.order.to == GroupId(1)
    };
    let (mut most, mut of_dead) = (0, 0);
    for _ in 0..2000 {
        let live: Vec<MoveRecord> =
            master.map().unfinished().filter(|record| !is_dead(record)).copied().collect();
        most = most.max(master.map().unfinished().count());
        of_dead = of_dead.max(master.map().unfinished().filter(|record| is_dead(record)).count());
        if live.is_empty() {
            break;
        }
        let items = live.iter().flat_map(|record| reports(record, MoveOutcome::Activated));
        let items = items.map(|report| item(MasterOp::Report(report))).collect();
        master.apply(EntryBatch::new(LogTime(1), items));
    }
    assert!(most <= MOVES_MAX as usize, "{most} moves at once");
    assert!(of_dead <= MOVES_PER_GROUP_MAX as usize, "{of_dead} moves of the dead group");
    assert!(of_dead > 200, "{of_dead} moves of the dead group");
    let targets = master.newest().slot_table();
    for (number, target) in (0..).zip(targets) {
        let owner = master.map().owners.of(Slot(number)).map(|(group, _)| group);
        let before = table[usize::from(number)];
        match [before, target].contains(&Some(GroupId(1))) && before != target {
            true => assert_eq!(owner, before, "slot {number} waits for the dead group"),
            false => assert_eq!(owner, target, "slot {number}"),
        }
    }
}

/// What ended by what the other side said is kept for one that is gone, but not without a bound.
#[test]
fn reports_that_never_come_are_bounded() {
    let mut master = begun(3, 3);
    execute(&mut master, MasterOp::DrainGroup { group: GroupId(1) }).unwrap();
    for _ in 0..1000 {
        let open: Vec<MoveRecord> = master.map().unfinished().copied().collect();
        let items = open.iter().map(|record| {
            let sides = reports(record, MoveOutcome::Activated);
            item(MasterOp::Report(sides[sides.len() - 1]))
        });
        let items = items.collect();
        master.apply(EntryBatch::new(LogTime(1), items));
    }
    assert_eq!(master.map().unfinished().count(), 0, "the source is asked for nothing more");
    assert_eq!(master.map().moves.len(), MOVES_PER_GROUP_MAX as usize);
    // It comes back and says so.
    let owed: Vec<MoveRecord> = master.map().moves.values().copied().collect();
    for record in owed {
        let report = reports(&record, MoveOutcome::Activated)[0];
        execute(&mut master, MasterOp::Report(report)).unwrap();
    }
    assert_eq!(master.map().unfinished().count(), 2 * MOVES_PER_PAIR_MAX as usize);
    assert_eq!(master.ended_moves().count(), MOVES_PER_GROUP_MAX as usize);
}

#[test]
fn bounds_are_refused_by_name() {
    let mut master = begun(3, 999);
    let voters = vec![NodeId(1)];
    let create = MasterOp::CreateGroup { group: None, voters, weight: 1, rebalance: false };
    assert_eq!(execute(&mut master, create.clone()).unwrap().group, Some(GroupId(1000)));
    let error = execute(&mut master, create).unwrap_err();
    assert_eq!(error.to_string(), "there are 1000 groups already, remove one first");
    let addresses = |id: u64, extra: usize| NodeConfig {
        peer: format!("{}n{id}:7000", "h".repeat(extra)),
        resp: format!("n{id}:6379"),
    };
    for id in 4..=1000 {
        let op = MasterOp::AddNode { node: NodeId(id), addresses: addresses(id, 0) };
        execute(&mut master, op).unwrap();
    }
    let op = MasterOp::AddNode { node: NodeId(1001), addresses: addresses(1001, 0) };
    let error = execute(&mut master, op).unwrap_err();
    assert_eq!(error.to_string(), "there are 1000 nodes already, forget one first");
    let op = MasterOp::AddNode { node: NodeId(5), addresses: addresses(5, 300) };
    let error = execute(&mut master, op).unwrap_err().to_string();
    assert_eq!(
        error,
        "an address of node 5 has 307 bytes, give host:port with a host of 255 bytes at most"
    );
    let moves = vec![MoveId(1); 4097];
    let error = execute(&mut master, MasterOp::Cancel(Cancel::Moves(moves))).unwrap_err();
    assert_eq!(error.to_string(), "4097 moves are named, 4096 at most");
    let members = settled(1, (1..=22).map(NodeId).collect());
    let op = MasterOp::GroupConf { group: GroupId(1), members };
    let error = execute(&mut master, op).unwrap_err();
    assert_eq!(error.to_string(), "group 1 cannot have seats on 22 nodes");
    assert_eq!(master.map().check(), Ok(()));
}

#[test]
fn rows_that_no_shardmaster_has_are_refused() {
    let mut master = begun(3, 2);
    let mut disk = Disk::new();
    let ranges = vec![(Slot(0), Slot(19))];
    execute(&mut master, MasterOp::MoveSlots { ranges, to: GroupId(2) }).unwrap();
    let record = *master.map().unfinished().next().unwrap();
    for report in reports(&record, MoveOutcome::Refused(RefuseReason::NoProgress)) {
        execute(&mut master, MasterOp::Report(report)).unwrap();
    }
    save(&mut master, &mut disk);
    assert_eq!(load(&disk).unwrap().digest(), master.digest());
    let fault = |change: &dyn Fn(&mut Disk)| {
        let mut disk = disk.clone();
        change(&mut disk);
        load(&disk).expect_err("no shardmaster has these rows").fault
    };
    let key = |row| Row::Master(row).key();
    let map = &key(MasterRow::Map);
    let gone = |row| fault(&|disk: &mut Disk| drop(disk.remove(&key(row))));
    assert_eq!(gone(MasterRow::Map), RowFault::Orphan);
    assert_eq!(gone(MasterRow::Seats(GroupId(2))), RowFault::Contradiction);
    assert_eq!(gone(MasterRow::Owners(0)), RowFault::Contradiction);
    // A move, a slot's owner, a slot that waits, each under another's name.
    let moved = disk[&key(MasterRow::Move(2))].clone();
    let put =
        |row, value: &Bytes| fault(&|disk: &mut Disk| drop(disk.insert(key(row), value.clone())));
    assert_eq!(put(MasterRow::Move(3), &moved), RowFault::Contradiction);
    assert_eq!(put(MasterRow::Move(99), &moved), RowFault::Contradiction);
    assert_eq!(put(MasterRow::Owners(1), &disk[&key(MasterRow::Owners(0))]), RowFault::Value);
    assert_eq!(put(MasterRow::Retired, &Bytes::from_static(&[1, 1, 2])), RowFault::Contradiction);
    let whole = disk[map].clone();
    assert!(matches!(put(MasterRow::Map, &whole.slice(..2)), RowFault::Codec(_)));
    let version = [&[3], &whole[1..]].concat();
    assert_eq!(put(MasterRow::Map, &version.clone().into()), RowFault::Version(3));
    assert_eq!(put(MasterRow::Config(1), &version.into()), RowFault::Version(3));
    // Keys of no row: a slot that there is not, a chunk, a kind.
    for bad in [vec![0, 0, 5, 64, 0], vec![0, 0, 3, 64], vec![0, 0, 10], vec![0, 0, 2, 0]] {
        let found = fault(&|disk: &mut Disk| drop(disk.insert(bad.clone().into(), whole.clone())));
        assert_eq!(found, RowFault::Kind, "{bad:?}");
    }
}

/// Rows from before slots could move: whole configurations and nothing else.
#[test]
fn rows_of_the_first_version_are_read() {
    let mut master = begun(3, 2);
    let mut disk = Disk::new();
    save(&mut master, &mut disk);
    disk.retain(|key, _| *key < Row::Master(MasterRow::Map).key());
    let whole = [&[1], &bytes_of(master.newest())[..]].concat();
    disk.insert(Row::Master(MasterRow::Config(1)).key(), whole.into());
    let mut loaded = load(&disk).unwrap();
    assert_eq!(loaded.map(), master.map());
    assert_eq!(loaded.digest(), master.digest());
    // What they lack is written with the next checkpoint.
    assert!(loaded.dirty().any);
    save(&mut loaded, &mut disk);
    assert_eq!(load(&disk).unwrap().digest(), master.digest());
    assert_eq!(master.map().owners.of(Slot(0)), Some((GroupId(1), SlotEpoch(1))));
    assert!(!master.map().config.groups[&SHARDMASTER].voters.is_empty());
}

/// What comes and goes between two checkpoints leaves nothing behind.
#[test]
fn notes_are_bounded_by_what_there_is() {
    let mut master = begun(3, 2);
    let mut disk = Disk::new();
    save(&mut master, &mut disk);
    execute(&mut master, MasterOp::DrainGroup { group: GroupId(1) }).unwrap();
    loop {
        let Some(record) = master.map().unfinished().next().copied() else { break };
        for report in reports(&record, MoveOutcome::Activated) {
            execute(&mut master, MasterOp::Report(report)).unwrap();
        }
    }
    assert!(master.next_move > 8000, "{} moves", master.next_move);
    let rows = save(&mut master, &mut disk);
    assert!(rows < ENDED_MOVES_MAX + 100, "{rows} rows");
    assert_eq!(load(&disk).unwrap().digest(), master.digest());
}

/// A variant's number is its place: one moved, and a program reads another's log wrongly.
#[test]
fn variants_keep_their_numbers() {
    let (node, group, ranges) = (NodeId(1), GroupId(1), Vec::new);
    let addresses = NodeConfig { peer: String::new(), resp: String::new() };
    let report = MoveReport {
        id: MoveId(1),
        slot: Slot(1),
        by: group,
        side: Side::Source,
        outcome: MoveOutcome::Activated,
    };
    let ops = [
        MasterOp::AddNode { node, addresses },
        MasterOp::ForgetNode { node },
        MasterOp::CreateGroup { group: None, voters: Vec::new(), weight: 1, rebalance: true },
        MasterOp::DrainGroup { group },
        MasterOp::RemoveGroup { group },
        MasterOp::MoveSlots { ranges: ranges(), to: group },
        MasterOp::AssignSlots { ranges: ranges(), to: group },
        MasterOp::UnassignSlots { ranges: ranges() },
        MasterOp::SetMembers { group, voters: Vec::new() },
        MasterOp::SetWeight { group, weight: 1 },
        MasterOp::Rebalance { moves_max: None },
        MasterOp::Pause,
        MasterOp::Resume,
        MasterOp::Cancel(Cancel::All),
        MasterOp::SetEvacuated { node, evacuated: true },
        MasterOp::Report(report),
        MasterOp::GroupConf { group, members: settled(1, Vec::new()) },
        MasterOp::ChangeMembers { group, add: Vec::new(), remove: Vec::new() },
        MasterOp::ReplaceNode { old: node, new: node, group: None },
    ];
    for (number, op) in ops.iter().enumerate() {
        assert_eq!(usize::from(bytes_of(op)[0]), number, "{op:?}");
    }
    let cancels = [Cancel::All, Cancel::Moves(Vec::new()), Cancel::Slots(Vec::new())];
    for (number, cancel) in cancels.iter().enumerate() {
        assert_eq!(usize::from(bytes_of(cancel)[0]), number, "{cancel:?}");
    }
    // The first, the last and one between: an error inserted moves those behind it.
    for (error, number) in [
        (MasterError::NoConfiguration, 0),
        (MasterError::Shardmaster, 9),
        (MasterError::SlotRange, 22),
        (MasterError::FutureConfig { group, config: ConfigNum(1) }, 37),
        (MasterError::NoSeat(node), 40),
    ] {
        assert_eq!(bytes_of(&error)[0], number, "{error:?}");
    }
}
