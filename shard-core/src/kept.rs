//! What a node keeps of the cluster beside its logs and its states: the newest map it goes by, and what it
//! has left.
//!
//! It decides which replicas a node opens, so it has to be right after every crash:
//! - A replica is opened only by a map that is on disk. So what a disk has of a group that the map there
//!   does not name is of a group that was removed, never of one that is not known yet.
//! - A replica is closed, and what it had is deleted, only by what is on disk. So a group that is gone does not
//!   come back, whatever the cluster file says that the node is started with.
//! - A group that lives on without this node is noted here before anything of it is deleted, and for as long as the
//!   group lives. Its term and vote stay in the log (R21). With them, and this note, a replica that comes
//!   back is nobody's first voter: it has a say only once its log names it.
//!
//! The newest map counts, so what is written is never older than what is there. Changes that come in quick
//! succession are written five times a second, except those of nodes and groups.

use crate::cluster_config::{ClusterConfig, NodeConfig};
use crate::cluster_map::{ClusterMap, MapError};
use crate::codec::{self, CodecError};
use bytes::{BufMut, Bytes, BytesMut};
use raft_core::types::{GroupId, NodeId, Now};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of it on disk, at most: a map with all moves that there can be is a quarter of it.
pub const KEPT_BYTES_MAX: u64 = 64 << 20;
/// The form written here, and the newest that is read.
const VERSION: u8 = 3;
/// The form whose map knew nothing of members.
const VERSION_WITHOUT_MEMBERS: u8 = 1;
/// The form that did not say whose it is.
const VERSION_WITHOUT_OWNER: u8 = 2;
/// The last byte is the version.
const MAGIC: [u8; 8] = *b"flotmap\x03";
/// Between two writes of what is not urgent.
const PAUSE_NS: Now = 200_000_000;

/// How far the deletion of a replica is whose group lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Left {
    /// The disk may still have all of it.
    Clearing,
    /// Nothing but term and vote was left on the disk; if there is more now, the node has come back.
    Cleared,
}

/// A node that is elsewhere than the map says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// What the map said when the cluster file was changed. Once it says something else, that counts.
    pub from: NodeConfig,
    /// What the cluster file said.
    pub to: NodeConfig,
}

/// What a node keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The newest map.
    pub map: Arc<ClusterMap>,
    /// Groups in which this node has deleted a replica, and that live on.
    pub left: BTreeMap<GroupId, Left>,
    /// Nodes that a cluster file has told new addresses of.
    pub moved: BTreeMap<NodeId, Moved>,
}

/// Why bytes are not what was kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Not the first bytes of such a file.
    #[error("it does not begin as such a file does")]
    Magic,
    /// Written by a newer program.
    #[error("it has version {0}, and this program reads up to {VERSION}")]
    Version(u8),
    /// They are not the bytes that were written.
    #[error("its checksum is wrong")]
    Checksum,
    /// The checksum is right, but they cannot be read.
    #[error("its content cannot be read: {0}")]
    Content(#[from] CodecError),
    /// The map makes no sense.
    #[error("its map makes no sense: {0}")]
    Map(#[from] MapError),
}

impl Kept {
    /// What a node begins with.
    pub fn first(config: &ClusterConfig) -> Kept {
        let map = Arc::new(ClusterMap::of_config(config));
        Kept { map, left: BTreeMap::new(), moved: BTreeMap::new() }
    }

    /// As node `owner` keeps it: 8 bytes of magic and version, postcard, and the CRC-32 of all of it, little endian.
    pub fn encode(&self, owner: NodeId) -> Bytes {
        let mut bytes = BytesMut::from(&MAGIC[..]);
        codec::append(&(&*self.map, &self.left, &self.moved, owner), &mut bytes);
        let sum = crc32fast::hash(&bytes);
        bytes.put_u32_le(sum);
        bytes.freeze()
    }

    /// Reads what [`Kept::encode`] wrote, and whose it is: an older program did not say so.
    ///
    /// # Errors
    /// If it was not that.
    pub fn decode(bytes: &[u8]) -> Result<(Kept, Option<NodeId>), KeptError> {
        let magic = bytes.first_chunk::<8>().filter(|magic| magic[..7] == MAGIC[..7]);
        let version = magic.ok_or(KeptError::Magic)?[7];
        if version > VERSION {
            return Err(KeptError::Version(version));
        }
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(KeptError::Checksum)?;
        if version == 0 || crc32fast::hash(content) != u32::from_le_bytes(*sum) {
            return Err(KeptError::Checksum);
        }
        let content = content.get(MAGIC.len()..).ok_or(KeptError::Checksum)?;
        let ((map, left, moved), owner): (Content, Option<NodeId>) = match version {
            VERSION_WITHOUT_MEMBERS => (without_members(content)?, None),
            VERSION_WITHOUT_OWNER => (codec::whole(content)?, None),
            _ => {
                let (map, left, moved, owner) = codec::whole(content)?;
                ((map, left, moved), Some(owner))
            }
        };
        // The one of a node that has heard of no cluster yet names no group.
        if map.version > 0 {
            map.check()?;
        }
        Ok((Kept { map: Arc::new(map), left, moved }, owner))
    }

    /// Whether what the disk has of a group is to stay.
    pub fn wants(&self, group: GroupId) -> bool {
        self.map.config.groups.contains_key(&group)
            && self.left.get(&group) != Some(&Left::Clearing)
    }

    /// The voters that a replica of the group begins with here; none if it has a say only once its log
    /// names it.
    pub fn first_voters(&self, group: GroupId, own: NodeId) -> Vec<NodeId> {
        let founders = self.map.founders.get(&group).filter(|first| first.contains(&own));
        let founders = founders.filter(|_| !self.left.contains_key(&group));
        founders.cloned().unwrap_or_default()
    }

    /// Whether the map gives a node a seat in a group.
    pub fn seats(&self, group: GroupId, node: NodeId) -> bool {
        let seats = self.map.config.groups.get(&group);
        seats.is_some_and(|seats| seats.voters.contains(&node))
    }

    /// A cluster file says new addresses of nodes. What it says of nodes that are not known is not taken.
    pub fn tell_addresses<'a>(
        &mut self,
        told: impl IntoIterator<Item = (&'a NodeId, &'a NodeConfig)>,
    ) {
        for (node, to) in told {
            match self.map.config.nodes.get(node) {
                Some(from) if from != to => {
                    let moved = Moved { from: from.clone(), to: to.clone() };
                    self.moved.insert(*node, moved);
                }
                Some(_) | None => drop(self.moved.remove(node)),
            }
        }
    }

    /// Puts the addresses that count into a map.
    pub(crate) fn correct(&self, config: &mut ClusterConfig) {
        for (node, moved) in &self.moved {
            if let Some(addresses) = config.nodes.get_mut(node)
                && *addresses == moved.from
            {
                *addresses = moved.to.clone();
            }
        }
    }

    /// Notes that need not be kept any more go.
    fn tidy(&mut self) {
        let config = &self.map.config;
        self.left.retain(|group, _| config.groups.contains_key(group));
        self.moved.retain(|node, moved| config.nodes.get(node) == Some(&moved.from));
    }
}

type Content = (ClusterMap, BTreeMap<GroupId, Left>, BTreeMap<NodeId, Moved>);

/// Reads the first form: field after field as in the newest, but for the map's last one.
fn without_members(content: &[u8]) -> Result<Content, CodecError> {
    let ((version, config, owners, moves, waiting), (paused, evacuated, founders), left, moved) =
        codec::whole(content)?;
    let members = BTreeMap::new();
    let map = ClusterMap {
        version,
        config,
        owners,
        moves,
        waiting,
        paused,
        evacuated,
        founders,
        members,
    };
    Ok((map, left, moved))
}

/// What there is to be kept, and what is.
#[derive(Debug)]
pub(crate) struct Keeper {
    durable: Arc<Kept>,
    wanted: Kept,
    /// What the host writes.
    asked: Option<(u64, Arc<Kept>)>,
    /// Names what it is asked for.
    next: u64,
    urgent: bool,
    pause_until: Now,
}

impl Keeper {
    /// With what the disk has.
    pub(crate) fn new(kept: Kept) -> Keeper {
        Keeper {
            wanted: kept.clone(),
            durable: Arc::new(kept),
            asked: None,
            next: 1,
            urgent: false,
            pause_until: 0,
        }
    }

    /// What the disk has.
    pub(crate) fn durable(&self) -> &Arc<Kept> {
        &self.durable
    }

    /// What it is to have.
    pub(crate) fn wanted(&self) -> &Kept {
        &self.wanted
    }

    /// There is another map. One that is not newer is not taken.
    pub(crate) fn hear(&mut self, map: &Arc<ClusterMap>) {
        let before = &self.wanted.map;
        if map.version <= before.version {
            return;
        }
        let (old, new) = (&before.config, &map.config);
        self.urgent |= old.nodes != new.nodes || old.groups != new.groups;
        self.wanted.map = Arc::clone(map);
        self.wanted.tidy();
    }

    /// Something of a group was, or is to be, deleted though it lives on.
    pub(crate) fn note_left(&mut self, group: GroupId, left: Left) {
        if self.wanted.map.config.groups.contains_key(&group) {
            self.urgent |= self.wanted.left.insert(group, left) != Some(left);
        }
    }

    /// What is to be written now.
    pub(crate) fn poll(&mut self, now: Now) -> Option<(u64, Arc<Kept>)> {
        let due = self.urgent || now >= self.pause_until;
        if self.asked.is_some() || !due || self.wanted == *self.durable {
            return None;
        }
        self.urgent = false;
        self.pause_until = now.saturating_add(PAUSE_NS);
        let asked = (self.next, Arc::new(self.wanted.clone()));
        self.next += 1;
        self.asked = Some(asked.clone());
        Some(asked)
    }

    /// It is on disk. Says whether it was asked for.
    pub(crate) fn kept(&mut self, number: u64) -> bool {
        match self.asked.take_if(|(asked, _)| *asked == number) {
            Some((_, kept)) => {
                self.durable = kept;
                true
            }
            None => false,
        }
    }

    /// When [`Keeper::poll`] has something, if nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Now> {
        let waits = self.asked.is_none() && self.wanted != *self.durable;
        waits.then_some(self.pause_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_config::{ConfigNum, GroupConfig, SHARDMASTER};

    const G1: GroupId = GroupId(1);
    const N1: NodeId = NodeId(1);

    fn at(host: &str) -> NodeConfig {
        NodeConfig { peer: format!("{host}:1"), resp: format!("{host}:2") }
    }

    fn map(version: u64) -> Arc<ClusterMap> {
        let seats = |weight| GroupConfig { voters: vec![N1, NodeId(2)], weight };
        let config = ClusterConfig {
            num: ConfigNum(version),
            cluster_id: "c".into(),
            nodes: [(N1, at("a")), (NodeId(2), at("b"))].into(),
            groups: [(SHARDMASTER, seats(0)), (G1, seats(1))].into(),
            slots: Vec::new(),
        };
        Arc::new(ClusterMap { version, ..ClusterMap::of_config(&config) })
    }

    fn kept() -> Kept {
        let moved = Moved { from: at("b"), to: at("d") };
        Kept { map: map(3), left: [(G1, Left::Cleared)].into(), moved: [(NodeId(2), moved)].into() }
    }

    /// A program that writes it otherwise has to give it another version.
    #[test]
    fn its_bytes_stay_as_they_are() {
        let bytes = kept().encode(N1);
        assert_eq!(Kept::decode(&bytes).unwrap(), (kept(), Some(N1)));
        assert_eq!((bytes.len(), crc32fast::hash(&bytes[..bytes.len() - 4])), (84, 3_213_521_440));
    }

    /// The forms before the newest are read as long as there may be files of them.
    #[test]
    fn what_was_kept_before_it_said_whose_it_is_is_read() {
        let Kept { map, left, moved } = kept();
        let mut bytes = BytesMut::from(&b"flotmap\x02"[..]);
        codec::append(&(&*map, &left, &moved), &mut bytes);
        let sum = crc32fast::hash(&bytes);
        bytes.put_u32_le(sum);
        assert_eq!((bytes.len(), sum), (83, 4_218_557_824));
        assert_eq!(Kept::decode(&bytes).unwrap(), (kept(), None));
    }

    #[test]
    fn what_was_kept_before_maps_knew_members_is_read() {
        let Kept { map, left, moved } = kept();
        let map = &*map;
        let head = (map.version, &map.config, &map.owners, &map.moves, &map.waiting);
        let tail = (map.paused, &map.evacuated, &map.founders);
        let mut bytes = BytesMut::from(&b"flotmap\x01"[..]);
        codec::append(&(head, tail, &left, &moved), &mut bytes);
        let sum = crc32fast::hash(&bytes);
        bytes.put_u32_le(sum);
        assert_eq!((bytes.len(), sum), (82, 1_968_612_356));
        assert_eq!(Kept::decode(&bytes).unwrap(), (kept(), None));
    }

    #[test]
    fn f07_f09_what_was_not_written_is_refused() {
        let bytes = kept().encode(N1);
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.to_vec();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(Kept::decode(&rotten).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Kept::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        let mut newer = bytes.to_vec();
        newer[7] = 4;
        assert!(matches!(Kept::decode(&newer), Err(KeptError::Version(4))));
        assert!(matches!(Kept::decode(b"redis"), Err(KeptError::Magic)));
    }

    #[test]
    fn k14_what_a_file_says_of_addresses_counts_until_the_map_says_something_new() {
        let mut kept = Kept { map: map(3), left: BTreeMap::new(), moved: BTreeMap::new() };
        let seen = |kept: &Kept, map: &ClusterMap| {
            let mut config = map.config.clone();
            kept.correct(&mut config);
            config.nodes[&NodeId(2)].clone()
        };
        let told = BTreeMap::from([(N1, at("a")), (NodeId(2), at("d")), (NodeId(7), at("e"))]);
        kept.tell_addresses(&told);
        assert_eq!(kept.moved.len(), 1, "{kept:?}");
        assert_eq!(seen(&kept, &map(3)), at("d"));
        let mut keeper = Keeper::new(kept);
        keeper.hear(&map(4));
        assert_eq!(seen(keeper.wanted(), &map(4)), at("d"), "the map still says b");
        let mut newer = ClusterMap::clone(&map(5));
        newer.config.nodes.insert(NodeId(2), at("f"));
        keeper.hear(&Arc::new(newer.clone()));
        assert_eq!(seen(keeper.wanted(), &newer), at("f"));
        assert!(keeper.wanted().moved.is_empty());
    }

    #[test]
    fn the_newest_is_written_one_at_a_time_and_never_an_older_one() {
        let mut keeper = Keeper::new(Kept::first(&map(1).config));
        assert_eq!(keeper.poll(0), None, "there is nothing new");
        keeper.hear(&map(4));
        let (first, asked) = keeper.poll(0).expect("a new map");
        assert_eq!(asked.map.version, 4);
        keeper.hear(&map(3));
        keeper.hear(&map(6));
        assert_eq!(keeper.poll(5 * PAUSE_NS), None, "one is being written");
        assert_eq!(keeper.durable().map.version, 0);
        assert!(!keeper.kept(first + 1) && keeper.kept(first) && !keeper.kept(first));
        assert_eq!(keeper.durable().map.version, 4);
        assert_eq!(keeper.poll(PAUSE_NS - 1), None, "not urgent");
        assert_eq!(keeper.deadline(), Some(PAUSE_NS));
        keeper.note_left(G1, Left::Clearing);
        let (_, asked) = keeper.poll(1).expect("it is urgent now");
        assert_eq!((asked.map.version, asked.left.len()), (6, 1));
        assert!(!asked.wants(G1) && asked.first_voters(G1, N1).is_empty());
        let mut without = ClusterMap::clone(&map(7));
        without.config.groups.remove(&G1);
        without.founders.remove(&G1);
        keeper.hear(&Arc::new(without));
        assert!(keeper.wanted().left.is_empty(), "the group is gone for ever");
        keeper.note_left(G1, Left::Cleared);
        assert!(keeper.wanted().left.is_empty());
    }
}
