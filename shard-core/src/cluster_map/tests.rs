use super::*;
use crate::cluster_config::{GroupConfig, NodeConfig, SlotRange};
use crate::codec;

fn random(state: &mut u64, end: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % end
}

/// Three nodes, groups 1 to 4 of which the first has all slots.
fn map() -> ClusterMap {
    let seats = |weight| GroupConfig { voters: vec![NodeId(1), NodeId(2), NodeId(3)], weight };
    let node = |id| {
        let (peer, resp) = (format!("n{id}:7000"), format!("n{id}:6379"));
        (NodeId(id), NodeConfig { peer, resp })
    };
    let all = SlotRange { first: Slot(0), last: Slot(SLOTS - 1), group: GroupId(1) };
    let config = ClusterConfig {
        num: ConfigNum(1),
        cluster_id: "test".to_owned(),
        nodes: (1..=3).map(node).collect(),
        groups: (0..=4).map(|group| (GroupId(group), seats(1))).collect(),
        slots: vec![all],
    };
    let mut owners = Owners::default();
    let (first, last) = (all.first, all.last);
    owners.set_range(OwnerRange { first, last, group: GroupId(1), epoch: SlotEpoch(1) });
    ClusterMap { version: 1, config, owners, ..ClusterMap::default() }
}

fn record(id: u64, slot: u16, from: Option<u32>, to: u32, epoch: u64) -> MoveRecord {
    let order = Move {
        id: MoveId(id),
        slot: Slot(slot),
        from: from.map(GroupId),
        to: GroupId(to),
        epoch: SlotEpoch(epoch),
    };
    MoveRecord::new(order, LogTime(5))
}

fn put(map: &mut ClusterMap, id: u64, record: MoveRecord) {
    map.moves.insert(MoveId(id), record);
}

#[test]
fn owners_are_those_of_a_plain_table() {
    let mut state = 1;
    let (mut owners, mut table) = (Owners::default(), vec![None; usize::from(SLOTS)]);
    let mut before = (owners.clone(), table.clone());
    for round in 0..3000 {
        // Few slots, at both ends, so that ranges meet.
        let place = |state: &mut u64| match random(state, 2) {
            0 => random(state, 24) as u16,
            _ => SLOTS - 1 - random(state, 24) as u16,
        };
        let (a, b) = (place(&mut state), place(&mut state));
        let (first, last) = match random(&mut state, 3) {
            0 => (a.min(b), a.max(b)),
            _ => (a, a),
        };
        let owner =
            (GroupId(1 + random(&mut state, 3) as u32), SlotEpoch(1 + random(&mut state, 2)));
        let (group, epoch) = owner;
        owners.set_range(OwnerRange { first: Slot(first), last: Slot(last), group, epoch });
        table[usize::from(first)..=usize::from(last)].fill(Some(owner));

        owners.check().unwrap_or_else(|error| panic!("round {round}: {error}"));
        for (slot, owner) in (0..).zip(&table) {
            assert_eq!(owners.of(Slot(slot)), *owner, "round {round}: slot {slot}");
        }
        let count =
            table.iter().filter(|owner| owner.is_some_and(|(g, _)| g == GroupId(1))).count();
        assert_eq!(owners.count(GroupId(1)) as usize, count, "round {round}");

        // What is said to have changed is what has, no slot more.
        let changed = owners.since(&before.0);
        let mut differ = 0;
        for range in &changed {
            for slot in range.first.0..=range.last.0 {
                let now = table[usize::from(slot)];
                assert_eq!(now, Some((range.group, range.epoch)), "round {round}");
                assert_ne!(before.1[usize::from(slot)], now, "round {round}: slot {slot}");
                differ += 1;
            }
        }
        let expected = table.iter().zip(&before.1).filter(|(a, b)| a != b).count();
        assert_eq!(differ, expected, "round {round}");
        if random(&mut state, 4) == 0 {
            before = (owners.clone(), table.clone());
        }
    }
}

#[test]
fn owners_that_cannot_be_are_refused() {
    let range = |first, last, group, epoch| OwnerRange {
        first: Slot(first),
        last: Slot(last),
        group: GroupId(group),
        epoch: SlotEpoch(epoch),
    };
    let check = |ranges: &[OwnerRange]| {
        Owners::of_ranges(ranges.to_vec()).check().map_err(|e| e.to_string())
    };
    assert_eq!(check(&[range(0, 5, 1, 1), range(6, 9, 2, 1), range(11, 16383, 2, 1)]), Ok(()));
    for (bad, sentence) in [
        (range(5, 4, 1, 1), "slots 5 to 4 cannot be owned by group 1 with epoch 1"),
        (range(0, 16384, 1, 1), "slots 0 to 16384 cannot be owned by group 1 with epoch 1"),
        (range(0, 4, 0, 1), "slots 0 to 4 cannot be owned by group 0 with epoch 1"),
        (range(0, 4, 1, 0), "slots 0 to 4 cannot be owned by group 1 with epoch 0"),
    ] {
        assert_eq!(check(&[bad]), Err(sentence.to_owned()));
    }
    for second in [range(5, 9, 2, 1), range(0, 1, 2, 1), range(6, 9, 1, 1)] {
        let refused = check(&[range(0, 5, 1, 1), second]);
        let at = second.first;
        assert_eq!(
            refused,
            Err(format!("the owners are not in order, joined and apart at slot {at}"))
        );
    }
}

/// A subscriber that applies every change has the map, whatever changed; and one slot's change is small
/// though the map is large.
#[test]
fn changes_make_the_map_and_are_as_small_as_what_changed() {
    let mut state = 7;
    let mut map = map();
    // As many pieces as there can be.
    for slot in 0..SLOTS {
        map.owners.set(Slot(slot), GroupId(1 + u32::from(slot % 2)), SlotEpoch(2));
    }
    let whole = codec::bytes_of(&map).len();
    assert!(whole > 90_000, "{whole} bytes");
    let mut copy = map.clone();
    let mut moves: u64 = 0;
    for round in 0..300 {
        map.version += 1;
        let slot = Slot(random(&mut state, u64::from(SLOTS)) as u16);
        match random(&mut state, 7) {
            0 => {
                let (from, epoch) = map.owners.of(slot).unwrap();
                if map.move_of(slot).is_none() && from != GroupId(3) {
                    moves += 1;
                    let record = record(moves, slot.0, Some(from.0), 3, epoch.0 + 1);
                    map.moves.insert(MoveId(moves), record);
                }
            }
            1 => {
                let open = map.moves.values_mut().find(|record| record.ended.is_none());
                if let Some(record) = open {
                    record.ended = Some((MoveOutcome::Activated, LogTime(9)));
                    record.destination_reported = true;
                    let order = record.order;
                    map.owners.set(order.slot, order.to, order.epoch);
                }
            }
            2 => {
                map.moves.pop_first();
            }
            3 => {
                let reason = RefuseReason::NoProgress;
                map.waiting.insert(slot, Waiting { reason, refusals: 1, until: Some(LogTime(9)) });
            }
            4 => {
                map.waiting.pop_first();
            }
            5 => {
                map.paused = !map.paused;
                map.evacuated = [NodeId(1 + random(&mut state, 3))].into();
            }
            _ => {
                map.config.num.0 += 1;
                let mut table = map.config.slot_table();
                table[usize::from(slot.0)] = Some(GroupId(1 + random(&mut state, 4) as u32));
                map.config.slots = crate::cluster_config::ranges_of(&table);
            }
        }
        let change = map.diff(&copy);
        let bytes = codec::bytes_of(&change);
        assert!(bytes.len() < 100, "round {round}: {} bytes for {change:?}", bytes.len());
        let change = codec::whole(&bytes).expect("what was encoded");
        copy.apply(&change).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(copy, map, "round {round}");
    }
    assert!(moves > 10, "{moves} moves");
    let bytes = codec::bytes_of(&map);
    assert_eq!(codec::whole::<ClusterMap>(&bytes), Ok(map));
}

#[test]
fn a_change_that_does_not_fit_changes_nothing() {
    let mut copy = map();
    let mut newer = copy.clone();
    newer.version = 9;
    newer.paused = true;
    let change = newer.diff(&copy);
    for from in [0, 2] {
        let late = MapChange { from, ..change.clone() };
        assert_eq!(copy.apply(&late), Err(MapError::Version { of: from, has: 1 }));
    }
    let back = MapChange { to: 0, ..change.clone() };
    assert_eq!(copy.apply(&back), Err(MapError::Version { of: 1, has: 1 }));
    let node = MapChange { evacuated: Some([NodeId(9)].into()), ..change.clone() };
    assert_eq!(copy.apply(&node), Err(MapError::Evacuated(NodeId(9))));
    assert_eq!(copy, map(), "a refused change changes nothing");
    copy.apply(&change).expect("it fits");
    assert!(copy.paused);
}

#[test]
fn maps_that_cannot_be_are_refused() {
    type Change = fn(&mut ClusterMap);
    let cases: [(Change, &str); 11] = [
        (
            |m| m.config.cluster_id.clear(),
            "configuration: the cluster id \"\" is not 1 to 64 printable characters",
        ),
        (
            |m| m.owners.set(Slot(3), GroupId(9), SlotEpoch(2)),
            "slot 3 names group 9, which is no group for slots",
        ),
        (|m| put(m, 1, record(2, 3, Some(1), 2, 2)), "move 1 cannot be"),
        (|m| put(m, 0, record(0, 3, Some(1), 2, 2)), "move 0 cannot be"),
        (|m| put(m, 1, record(1, SLOTS, Some(1), 2, 2)), "move 1 cannot be"),
        (|m| put(m, 1, record(1, 3, Some(1), 1, 2)), "move 1 cannot be"),
        (|m| put(m, 1, record(1, 3, Some(2), 1, 2)), "move 1 cannot be"),
        (|m| put(m, 1, record(1, 3, Some(1), 2, 3)), "move 1 cannot be"),
        (
            |m| put(m, 1, record(1, 3, Some(1), 0, 2)),
            "slot 3 names group 0, which is no group for slots",
        ),
        (
            |m| {
                m.moves.insert(MoveId(1), record(1, 3, Some(1), 2, 2));
                m.moves.insert(MoveId(2), record(2, 3, Some(1), 3, 2));
            },
            "slot 3 has two unfinished moves",
        ),
        (
            |m| {
                let reason = RefuseReason::Cancelled;
                m.waiting.insert(Slot(SLOTS), Waiting { reason, refusals: 0, until: None });
            },
            "slot 16384 cannot wait",
        ),
    ];
    for (change, sentence) in cases {
        let mut map = map();
        assert_eq!(map.check(), Ok(()));
        change(&mut map);
        assert_eq!(map.check().expect_err(sentence).to_string(), sentence);
    }
    let mut many = map();
    let seats = many.config.groups[&GroupId(1)].clone();
    many.config.groups.extend((1..=1001).map(|group| (GroupId(group), seats.clone())));
    assert_eq!(
        many.check().expect_err("too many").to_string(),
        "1002 groups where 1001 are allowed"
    );
    assert_eq!(ClusterMap::default().check(), Ok(()), "the map before the first configuration");
}

/// Bytes from a socket are refused or make a map that can be checked; nothing panics.
#[test]
fn garbage_is_no_map() {
    let mut state = 3;
    let mut good = map();
    good.moves.insert(MoveId(1), record(1, 3, Some(1), 2, 2));
    let mut newer = good.clone();
    newer.version = 2;
    newer.owners.set(Slot(3), GroupId(2), SlotEpoch(2));
    newer.moves.clear();
    let change = codec::bytes_of(&newer.diff(&good));
    let whole = codec::bytes_of(&good);
    let mut refused = 0;
    for _ in 0..20_000 {
        let (mut bytes, mut delta) = (whole.clone(), change.clone());
        for bytes in [&mut bytes, &mut delta] {
            let at = random(&mut state, bytes.len() as u64) as usize;
            bytes[at] = random(&mut state, 256) as u8;
        }
        let map = codec::whole::<ClusterMap>(&bytes);
        refused += u32::from(!map.is_ok_and(|map| map.check().is_ok()));
        if let Ok(change) = codec::whole::<MapChange>(&delta) {
            let mut copy = good.clone();
            match copy.apply(&change) {
                Ok(()) => assert_eq!(copy.check(), Ok(())),
                Err(_) => assert_eq!(copy, good),
            }
        }
    }
    assert!(refused > 5_000, "only {refused} were refused");
}
