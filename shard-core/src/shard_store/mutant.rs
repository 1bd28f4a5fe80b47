//! Rules of moves and of members that tests break on purpose: a test that notices nothing then tests nothing.

/// A rule, broken.
#[cfg_attr(not(test), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// What is settled is forgotten with the move: a late order begins it anew.
    ForgetSettled,
    /// A lane that changes is not copied again.
    LanesNotTracked,
    /// A key that changes is not copied again.
    KeysNotTracked,
    /// A frozen slot serves.
    ServeFrozen,
    /// Whether a slot is served is asked when a write comes, and not again when its turn has come.
    CheckedAtArrival,
    /// The same, of reads.
    ReadsUnchecked,
    /// That a session is over is told by whoever is asked, and not by the owner of the slot alone.
    ExpiredFirst,
    /// A frozen slot is swept.
    SweepFrozen,
    /// Keys and lanes are served before the last round is there.
    ServeStaging,
    /// The destination owns the slot once the last rows are in its leader's log.
    ServeUncommitted,
    /// The next round may begin before all of this one is there.
    EarlyRound,
    /// A round is taken for the last one though the source is not frozen.
    ActivateUnfrozen,
    /// The source gives up a slot before the destination has said that it owns it.
    UnconfirmedGiveUp,
    /// Rows are taken whatever the cursor says.
    AnyCursor,
    /// Rows are taken whatever the round is.
    AnyRound,
    /// A move that another one has followed is taken for that one.
    AnyMove,
    /// Keys that were flushed are not taken out at the destination.
    IgnoreClear,
    /// A key that is gone is not told of.
    NoTombstones,
    /// Log time starts anew at the destination.
    DropFloor,
    /// The counter of changes starts anew at the destination.
    DropVersion,
    /// Writes are never held up for a copy that does not catch up.
    NoThrottle,
    /// A round is over when its last rows are in the log of the destination's leader.
    RoundByReceived,
    /// Requests for a frozen slot are told to come again.
    ParkNothing,
    /// A destination that is asked how it stands refuses, though rows have come a moment ago.
    RefuseWhenAsked,
    /// All rows are listed when a slot is to be copied.
    ListAtBegin,
    /// A slot that is flushed loses its lanes as well.
    FlushTakesLanes,
    /// Writes are let through between rounds for ever, however large they are.
    NoHold,
    /// Writes wait for a copy that nobody makes any more.
    HoldForNobody,
    /// Reads wait behind every write that waits.
    ReadsPassNone,
    /// Reads wait behind no write, also not behind one that they must see.
    ReadsPassAll,
    /// What a slot held is freed at once.
    FreeAtOnce,
    /// A source may be told to stop by anybody.
    UnfreezeAlways,
    /// The names of changed rows are not in checkpoints.
    ExportNotSaved,
    /// The end of a move is not kept for the shardmaster.
    EndNotKept,
    /// Every slot that is to come is begun at once.
    BeginAll,
    /// Nothing rests between the pieces of a slot.
    NoRest,
    /// Moves rest though no client is served.
    RestForNobody,
    /// Large slots are as many at a time as small ones.
    LargeOnesAtOnce,
    /// A node is forgotten by a report that follows a configuration which still names it.
    ForgetByOlder,
    /// What a group said earlier of its members counts though it comes late.
    AnyReport,
    /// A leader carries out what its map wants, whatever newer one the group follows already.
    OlderWish,
    /// A wish that changes nobody is not written down.
    FollowsNotNoted,
    /// A leader reports members that are not committed.
    ReportUncommitted,
    /// The op with which a router asks what became of another is read anew where the answer is gone.
    VoidReadsAnew,
    /// A part of a row is taken though those before it are not there.
    AnyPart,
    /// A row that changes while its parts are handed out goes on with parts of what it is now.
    MixedParts,
    /// A row is there with its first part.
    PartIsWhole,
    /// Parts stay when the cursor has moved on.
    OldPartsStay,
    /// Parts are not in checkpoints.
    PartsNotSaved,
    /// Parts are told to those who do not know them.
    PartsForAll,
    /// Of who knows parts only members are asked, and not who may be one later.
    PartsForMembers,
    /// A part that was asked for is taken, whoever has come since.
    PartsAsAsked,
    /// Whatever row comes before one that goes in parts has these taken anew.
    PartsGiveWay,
    /// A token gets into the log of a member that cannot read it.
    TokensForAll,
    /// A token is whatever command comes with its name.
    AnyCommandForAToken,
    /// A token is not remembered.
    TokenForgotten,
    /// Tokens do not move with their slot.
    TokensNotCopied,
    /// Tokens end by the clock of the group that their slot comes to.
    TokensEndEarly,
    /// Tokens take room from routers' lanes, and these from tokens.
    TokensAmongLanes,
    /// Lanes that come with their slot are held to no bound.
    ImportsUnbounded,
    /// A lane counts in each round of a copy.
    LanesOfEachRound,
    /// Tokens are not in checkpoints.
    TokensNotSaved,
    /// A leader stamps with its own clock, whatever others show.
    AnyStamp,
    /// A node leads on though its clock is wrong.
    AnyClockLeads,
    /// Log time stands still while it is ahead of the leader's clock.
    LogTimeStands,
    /// A state is kept until the one of the snapshot that takes its place is loaded.
    BothStates,
    /// What a replica has while its state is on its way is told as its state.
    EmptyIsTheState,
}

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks a rule on this thread.
#[cfg(test)]
pub(crate) fn set(mutant: Option<Mutant>) {
    BROKEN.set(mutant);
}

/// Whether a rule is broken: never but in tests.
#[inline]
pub(crate) fn is_broken(mutant: Mutant) -> bool {
    #[cfg(test)]
    {
        BROKEN.get() == Some(mutant)
    }
    #[cfg(not(test))]
    {
        let _ = mutant;
        false
    }
}
