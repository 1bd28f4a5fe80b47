//! Rules that can be broken on purpose, to prove that the tests would notice.
//!
//! Each value breaks one rule of the protocol where [`crate::Config`]'s `mutant` names it, or that of
//! [`crate::node_pair::PairsConfig`]. The fields exist under the feature `mutants` alone: what is
//! shipped has none of this.

/// A broken rule. Its comment says what it does instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// A leader answers lease reads after a transfer's go-ahead left (R19, E25).
    LeaseAfterGoAhead,
    /// A new leader takes its commit index as read index before it committed in its term (R9).
    ReadBeforeOwnTerm,
    /// Reads are answered without asking anybody (L5).
    ReadWithoutQuorum,
    /// A promise is given without a durable record of it (R8).
    PromiseNotDurable,
    /// A transfer's vote request passes belief and promises in any term (R19).
    TransferAnyTerm,
    /// Votes are given in spite of a promise to a leader (R18).
    VoteDespitePromise,
    /// A lease counts from when the answer came, not from when the request left (R18).
    LeaseFromReceipt,
    /// A vote is given though another was given in the same term (Raft 5.2).
    VoteTwice,
    /// A vote is given to a candidate whose log is behind (Raft 5.4.1).
    VoteForShorterLog,
    /// A granted vote leaves before it is durable (R1).
    VoteBeforeDurable,
    /// A candidate counts its own vote before it is durable, and asks at once (R2).
    OwnVoteBeforeDurable,
    /// An acknowledgement leaves before its entries are durable (R3).
    AckBeforeDurable,
    /// A leader counts itself for what is not on its own disk (R4).
    LeaderCountsUnsynced,
    /// Entries of earlier terms are committed by counting (Raft 5.4.2, figure 8).
    CommitOldTerm,
    /// A matching append that is shorter than the log cuts it (R2 of the scenarios).
    CutOnMatch,
    /// A follower commits beyond what the message verified (Figure 2).
    CommitBeyondVerified,
    /// An append is taken without its previous entry (Raft 5.3).
    IgnorePrevious,
    /// A disk's answer for an overwritten write counts for what replaced it (R10).
    StaleWriteCounts,
    /// Pre-vote answers of an earlier round count (R16).
    CountStalePreVotes,
    /// Something is said in a term that is not durable (R5).
    TermBeforeDurable,
    /// What was sent on a broken link is taken as on its way (R11).
    KeepWindowOnNewLink,
    /// Entries are taken however much waits for the disk (R24).
    UnboundedUnsynced,
    /// A small proposal passes a large one that waits for room (R24).
    SmallPassesBig,
    /// The numbers of reads repeat after a restart (R23, L16).
    RepeatReads,
    /// A new leader does not begin with an empty entry (Raft section 8, E26).
    NoEmptyEntry,
    /// Requests of an earlier term are dropped in silence (E16).
    DropStaleRequests,
    /// A leader that lost its majority still takes proposals (E19).
    ProposeWithoutQuorum,
    /// Half of the voters are a majority (E30).
    HalfIsMajority,
    /// Vote answers of an earlier term count (E12).
    CountStaleVotes,
    /// A leader does not step down without a majority (thesis 6.2).
    NoCheckQuorum,
    /// A campaign begins with a vote request, not with a pre-vote (thesis 9.6).
    NoPreVote,
    /// A vote request deposes a leader that is alive (thesis 4.2.3).
    VoteBesideLeader,
    /// A leader is quiet as soon as it has sent everything (R12).
    QuietWithoutProof,
    /// A follower believes its leader though its node does not claim the group (R13).
    ClaimsIgnored,
    /// A change of the configuration before anything is committed in the term (the fault of thesis 4.1 that was
    /// found after it was published, E26).
    ConfBeforeOwnTerm,
    /// A change of the configuration before the one before is committed (M1).
    TwoConfsAtOnce,
    /// Voters come in without having caught up (R22).
    PromoteAtOnce,
    /// A replica that no configuration names has a say in elections (R21).
    BlankVotes,
    /// In a joint configuration one half is enough (C4).
    JointByOneHalf,
    /// A configuration that was cut off goes on counting (M3).
    ConfKeptOnCut,
    /// Term and vote follow the entries that need them, in a write of their own (R7).
    TermAfterEntries,
    /// A leader counts a node that does not hear it (R14).
    CountDeaf,
    /// A node whose disk is stuck campaigns (R15).
    CampaignOnStuckDisk,
    /// Heartbeats leave though a worker is stuck (R15).
    HeartbeatWithoutWork,
    /// A node that is silent is taken for one whose process has ended (R17).
    EarlyWithoutProof,
    /// A broken link is taken for the end of the process behind it (R17).
    GoneWithTheLink,
    /// Messages of nodes that the own configuration does not name are dropped (R20).
    JudgeBySender,
    /// Who is dropped by an entry that is not committed does not campaign (R20, M23).
    DroppedIsMute,
    /// A removed replica goes on asking for votes (R20).
    RemovedAsksOn,
    /// Claims that differ from what is believed are left alone (R13).
    ClaimsNotCompared,
    /// A checkpoint covers more than is on the log's disk (R6).
    CheckpointBeyondLog,
    /// The log goes as soon as it is applied, whatever a checkpoint covers (P6).
    CompactUncovered,
    /// The log goes while a snapshot that it follows is on its way, and while followers lack it (S7).
    NoPin,
    /// Nothing of the log is kept for a member that is down, however short that is (S7).
    NobodyIsMissed,
    /// What was compacted counts as missing (S13).
    CompactedIsUnknown,
    /// Fetched entries are taken by whoever waits for some, fitting or not (R25).
    FetchUnchecked,
    /// A snapshot is installed though the log came past it meanwhile (R26, S23).
    InstallOverApplied,
    /// Entries reach the state machine before it holds the snapshot (R26).
    ApplyBeforeInstalled,
    /// An answer to a read that carries a higher number than any asked serves what is asked now (R23, L16).
    AnswerFromBefore,
    /// Whoever says that the asker is no member is not heard as to its term (E16).
    TermOfStrangersIgnored,
    /// A checkpoint is taken before it can say who is in the group (S14).
    CheckpointOfNobody,
    /// A leader that installs a snapshot offers the one before (R26, S8).
    OffersOlder,
    /// A stream to a receiver that is gone is not given up by the clock (S7).
    StreamWithoutEnd,
    /// A leader whose disk is stuck holds its followers' timers as long as it speaks (R15).
    StuckLeaderHoldsTimers,
    /// Any term is taken, up to the last one (E32).
    AnyTerm,
    /// A leader whose disk is stuck is promised that no vote is given (R15, R18).
    PromiseToStuckLeader,
    /// Another snapshot is taken up while one is being installed (R26).
    TwoInstalls,
}

impl Mutant {
    /// Every one.
    pub const ALL: &[Mutant] = &[
        Mutant::LeaseAfterGoAhead,
        Mutant::ReadBeforeOwnTerm,
        Mutant::ReadWithoutQuorum,
        Mutant::PromiseNotDurable,
        Mutant::TransferAnyTerm,
        Mutant::VoteDespitePromise,
        Mutant::LeaseFromReceipt,
        Mutant::VoteTwice,
        Mutant::VoteForShorterLog,
        Mutant::VoteBeforeDurable,
        Mutant::OwnVoteBeforeDurable,
        Mutant::AckBeforeDurable,
        Mutant::LeaderCountsUnsynced,
        Mutant::CommitOldTerm,
        Mutant::CutOnMatch,
        Mutant::CommitBeyondVerified,
        Mutant::IgnorePrevious,
        Mutant::StaleWriteCounts,
        Mutant::CountStalePreVotes,
        Mutant::TermBeforeDurable,
        Mutant::KeepWindowOnNewLink,
        Mutant::UnboundedUnsynced,
        Mutant::SmallPassesBig,
        Mutant::RepeatReads,
        Mutant::NoEmptyEntry,
        Mutant::DropStaleRequests,
        Mutant::ProposeWithoutQuorum,
        Mutant::HalfIsMajority,
        Mutant::CountStaleVotes,
        Mutant::NoCheckQuorum,
        Mutant::NoPreVote,
        Mutant::VoteBesideLeader,
        Mutant::QuietWithoutProof,
        Mutant::ClaimsIgnored,
        Mutant::ConfBeforeOwnTerm,
        Mutant::TwoConfsAtOnce,
        Mutant::PromoteAtOnce,
        Mutant::BlankVotes,
        Mutant::JointByOneHalf,
        Mutant::ConfKeptOnCut,
        Mutant::TermAfterEntries,
        Mutant::CountDeaf,
        Mutant::CampaignOnStuckDisk,
        Mutant::HeartbeatWithoutWork,
        Mutant::EarlyWithoutProof,
        Mutant::GoneWithTheLink,
        Mutant::JudgeBySender,
        Mutant::DroppedIsMute,
        Mutant::RemovedAsksOn,
        Mutant::ClaimsNotCompared,
        Mutant::CheckpointBeyondLog,
        Mutant::CompactUncovered,
        Mutant::NoPin,
        Mutant::NobodyIsMissed,
        Mutant::CompactedIsUnknown,
        Mutant::FetchUnchecked,
        Mutant::InstallOverApplied,
        Mutant::ApplyBeforeInstalled,
        Mutant::AnswerFromBefore,
        Mutant::TermOfStrangersIgnored,
        Mutant::CheckpointOfNobody,
        Mutant::OffersOlder,
        Mutant::StreamWithoutEnd,
        Mutant::StuckLeaderHoldsTimers,
        Mutant::AnyTerm,
        Mutant::PromiseToStuckLeader,
        Mutant::TwoInstalls,
    ];
}
