//! Every configuration there ever was, as differences with a full copy now and then.

use crate::cluster_config::{ClusterConfig, ConfigChange, ConfigNum};
use crate::codec::{self, bytes_of};
use bytes::Bytes;

/// Every so many configurations one is kept whole: finding one costs less than so many differences.
const FULL_COPY_EVERY: u64 = 256;
/// Configurations that are kept, at most: at one change a minute, two years. A change past them is refused
/// (P9); most take some tens of bytes.
pub(super) const CONFIGS_MAX: u64 = 1 << 20;

/// One configuration as it is kept, encoded: most are never asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of it.
    Whole(Bytes),
    /// What the one before it has not.
    Change(Bytes),
}

impl Kept {
    fn of(config: &ClusterConfig, before: &ClusterConfig) -> Kept {
        match config.num.0 % FULL_COPY_EVERY {
            0 => Kept::Whole(bytes_of(config).freeze()),
            _ => Kept::Change(bytes_of(&ConfigChange::between(before, config)).freeze()),
        }
    }
}

/// Configurations 0 to the newest.
#[derive(Debug)]
pub(super) struct History {
    /// By number; never empty.
    kept: Vec<Kept>,
}

impl History {
    /// With configuration 0: no groups, every slot unassigned (scenario K1).
    pub(super) fn new() -> History {
        let first = ClusterConfig::default();
        History { kept: vec![Kept::of(&first, &first)] }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.kept.len() as u64
    }

    /// Adds the next one, behind `before`.
    pub(super) fn push(&mut self, before: &ClusterConfig, config: &ClusterConfig) {
        assert_eq!(config.num.0, self.len(), "configurations are numbered one by one");
        self.kept.push(Kept::of(config, before));
    }

    /// As it is kept.
    pub(super) fn kept(&self, num: u64) -> Option<&Kept> {
        self.kept.get(usize::try_from(num).ok()?)
    }

    /// The configuration of that number; the newest for numbers that are not given out yet.
    pub(super) fn get(&self, num: ConfigNum) -> ClusterConfig {
        let newest = self.kept.len() - 1;
        let num = usize::try_from(num.0).unwrap_or(newest).min(newest);
        let whole = num - num % FULL_COPY_EVERY as usize;
        let Kept::Whole(bytes) = &self.kept[whole] else { panic!("{whole} is kept whole") };
        let mut config: ClusterConfig = codec::whole(bytes).expect("what was encoded here");
        for kept in &self.kept[whole + 1..=num] {
            let Kept::Change(bytes) = kept else { panic!("between two whole ones") };
            let change: ConfigChange = codec::whole(bytes).expect("what was encoded here");
            config = change.applied_to(&config).expect("it was checked when it was made");
        }
        config
    }

    /// All of them, for a digest.
    pub(super) fn bytes(&self) -> impl Iterator<Item = &Bytes> {
        self.kept.iter().map(|kept| match kept {
            Kept::Whole(bytes) | Kept::Change(bytes) => bytes,
        })
    }
}
