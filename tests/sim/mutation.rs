//! Rules broken on purpose, each to be caught by a named invariant: the list. What each does is in `broken/`.
//!
//! The numbers in brackets are the traces of the design's §6 that the breakage brings back.

use crate::ambush::Ambush;
use crate::attack::Attack;

/// One broken rule: what it is, what may catch it, under which directed attack, and the seed that is known to.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub mutation: Mutation,
    pub caught_by: &'static [&'static str],
    pub attack: Option<Attack>,
    /// Tried first; if the breakage is not caught there, all others are.
    pub seed: u64,
}

macro_rules! mutations {
    ($($(#[doc = $doc:literal])* $name:ident: $caught:expr, $attack:expr, $seed:literal;)*) => {
        /// One broken rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation { $($(#[doc = $doc])* $name,)* }

        /// All of them.
        pub const LIST: &[Entry] = &[$(Entry {
            mutation: Mutation::$name, caught_by: &$caught, attack: $attack, seed: $seed,
        },)*];
    };
}

const LEASES: [&str; 2] = ["two-leases", "lease-over-when-sealed"];

mutations! {
    /// S1: the lease counts from when the promise came, not from when the renewal was sent.
    LeaseFromReply: LEASES, None, 45;
    /// S1 (4): a successor that thaws counts the promises in its queue from when it reads them.
    QueuedPromisesCount: LEASES, Some(Attack::StallSuccessor), 16;
    /// S1: the primary counts the whole lease; the sixth for clocks that run apart is gone.
    WholeLease: LEASES, Some(Attack::CutAndSeal), 10;
    /// S1: the stamp gives a restarted agent more than the lease had left.
    StampTooLong: LEASES, Some(Attack::Restart), 10;
    /// S1: the lease lapses and nothing is fenced.
    NoFenceAtLapse: ["two-servers"], Some(Attack::CutAndSeal), 13;
    /// S1 (20): a successor that never gets a lease in time holds on to its epoch.
    NeverGivesUp: ["settles"], Some(Attack::LateAnswers), 0;
    /// S2: a guardian seals while its promise is live.
    SealsEarly: LEASES, Some(Attack::CutAndSeal), 0;
    /// S2: a restarted guardian, having forgotten its promises, seals at once.
    SealsAtOnceRestarted: LEASES, Some(Attack::Forget), 1;
    /// S2: a restarted guardian votes at once.
    VotesAtOnceRestarted: ["silent-voters"], Some(Attack::Forget), 2;
    /// S2 (14): a restarted guardian goes by a shorter lease in its file.
    ShorterLeaseInFile: LEASES, Some(Attack::Forget), 1;
    /// S2: a guardian says that it sealed before that is on disk.
    SealNotDurable: ["seal-durable"], None, 0;
    /// S2: a member reports before its seal is on disk.
    ReportNotDurable: ["report-durable"], None, 2;
    /// S2: a promise is given before its lease is on disk.
    PromiseNotDurable: ["promise-durable"], None, 0;
    /// S2: a guardian promises an epoch below its seal.
    PromisesBelowSeal: ["promise-after-seal"], Some(Attack::LeaderCut), 135;
    /// S2: the surrender is said while the fence is still under way.
    SurrenderBeforeFence: ["surrender-fenced"], None, 4;
    /// S2: the surrender is said before its mark is on disk.
    MarkAfterSurrender: ["surrender-marked"], None, 0;
    /// S2 (17): the stamp is merely erased.
    StampErased: ["surrender-marked", "surrender-final"], Some(Attack::Restart), 0;
    /// S2 (5): a late stamp replaces the mark.
    StampOverMark: ["surrender-final", "two-leases"], Some(Attack::Restart), 1;
    /// S3: the leader promotes without a majority of durable seals.
    PromotesWithoutSeals: ["promote-after-seals"], None, 1;
    /// S3: a member reports without having detached its instance.
    SealsWithoutDetaching: ["wait-kept"], None, 708;
    /// S3: a guardian that says nothing counts as one that holds no promise.
    SilenceIsVacancy: ["seal-needs-vacancy"], None, 6;
    /// S3 (9): answers to old polls are counted together with new ones.
    StalePollAnswers: ["seal-needs-vacancy"], Some(Attack::Flaky), 1;
    /// S3 (9): guardians say that they hold no promise right after `Promote`.
    VacantAtOnce: ["a-lease-to-start"], None, 1;
    /// S3: a command that comes late is carried out whatever has changed meanwhile.
    CompareForgotten: ["compare-and-set"], None, 22;
    /// S3 (12): the report of an earlier seal is used again.
    OldReportUsed: ["report-true", "wait-kept"], None, 0;
    /// Promises for one group count for another one.
    GroupsConfused: LEASES, Some(Attack::LeaderCut), 0;
    /// S4 (1): offsets are compared without regard to lineage.
    OffsetWithoutLineage: ["wait-kept"], None, 2;
    /// S4 (1): lineage follows the link: data below the epoch's start counts as the epoch's.
    LineageFromLink: ["wait-kept"], Some(Attack::Lag), 14;
    /// S4 (2): a restarted instance keeps its lineage.
    LineageOverRestart: ["wait-kept"], Some(Attack::Instances), 12;
    /// S4: an instance that was just let in claims lineage at once.
    LineageAtOnce: ["wait-kept"], None, 44;
    /// S4 (15, 22): a full resynchronisation, seen under way, leaves lineage standing.
    SyncKeepsLineage: ["wait-kept"], Some(Attack::CutSync), 15;
    /// S4: the least data wins.
    WorstDataWins: ["wait-kept"], None, 2;
    /// S4: of several that hold as much, the one of the lowest priority is taken.
    PriorityIgnored: ["priority-decides"], None, 0;
    /// S4: one that failed to serve its last promotion is not passed over.
    FailedServesAgain: ["failed-passed-over"], Some(Attack::LateAnswers), 0;
    /// S4: an instance that its agent has not seen yet counts as dead, and its report for nothing.
    UnseenIsDown: ["living-best"], Some(Attack::StopAhead), 0;
    /// S4: so does one that its agent cannot log in to.
    UnusableIsDown: ["living-best"], Some(Attack::LockedOut), 0;
    /// S4: priority 0 is promoted.
    PriorityZeroPromoted: ["never-priority-zero"], None, 19;
    /// S5: an instance follows before F has grown.
    FollowsWithoutCommit: ["wait-kept"], None, 8;
    /// S5 (18): who left F without the two commits is not counted for the sentence.
    DepartedNotCounted: ["wait-kept"], Some(Attack::Shrink), 16;
    /// S5 (19): the second commit of leaving takes out whoever was let in again meanwhile.
    OldLeaveCommits: ["wait-kept"], Some(Attack::Leave), 0;
    /// S5: the second commit of leaving does not wait for the one that leaves to be sealed.
    LeftUnsealed: ["wait-kept"], Some(Attack::DeafLeaver), 0;
    /// S5: nor for the others to hold what it may have acknowledged.
    LeftUnpassed: ["wait-kept"], Some(Attack::LeaveAhead), 0;
    /// S5 (3): R counts with the new W as soon as members are added.
    NewQuorumAtOnce: ["wait-kept"], Some(Attack::Grow), 18;
    /// S5: the event says `Kept` whatever was proved.
    KeptUnproved: ["wait-kept"], Some(Attack::Shrink), 48;
    /// S5: under `available` a promotion does not wait for the proof.
    AvailableHurries: ["waits-for-proof"], None, 0;
    /// S5: under `quorum` the primary runs with fewer replicas than W-1.
    QuorumRunsLow: ["min-replicas-held"], None, 0;
    /// S5: under `quorum` a follower that is silent leaves without the two commits.
    QuorumDropsSilent: ["quorum-leaves-by-proof"], None, 0;
    /// S5: under `quorum` a promotion goes without the proof.
    QuorumUnproved: ["quorum-needs-proof"], None, 2;
    /// S5 (21): a follower whose instance is down is not missed; writes stay refused.
    NobodyIsMissed: ["settles"], Some(Attack::DeadReplica), 43;
    /// S5 (6): the primary runs with min-replicas 0 though it has followers: a frozen agent's instance serves on.
    MinReplicasZero: ["two-servers", "min-replicas-held"], Some(Attack::FreezeCut), 18;
    /// S5: an agent that was started again while it served takes nobody for online, and lets writes in without a follower.
    MinReplicasForgotten: ["min-replicas-held", "two-servers"], Some(Attack::Ambush(Ambush::Inherit)), 0;
    /// S6 (16): an instance starts as its file says, rewritten while it served: as a primary.
    BornPrimary: ["serving-is-promoted"], None, 0;
    /// S6 (16): an instance starts with `replica-read-only no`, as its file says.
    BornWritable: ["serving-is-promoted"], None, 0;
    /// S6 (6): another process than the promoted one serves.
    AnotherProcessServes: ["serving-is-promoted"], Some(Attack::SwiftRestart), 0;
    /// S7 (7): an instance that loads or synchronises is killed as if it hung.
    KillsLoading: ["loading-is-alive"], None, 0;
    /// S7: an instance that hangs for good is left to hang.
    HungNeverKilled: ["hung-is-killed"], None, 7;
    /// S8: an instance whose agent is silent is not sealed over the network.
    RemoteSealNever: ["silent-is-sealed"], Some(Attack::FreezeAlone), 0;
    /// S8: the VIP has no lifetime.
    VipForEver: ["vip-leash"], None, 2;
    /// S8: the VIP is refreshed without a lease.
    VipWithoutLease: ["vip-follows-lease"], None, 2;
    /// S8: a follower whose agent has heard no renewal for a lease stays attached.
    FollowsInSilence: ["two-servers"], Some(Attack::FreezePair), 101;
    /// S9 (8): `NO ONE` waits in a stalled instance and is executed after the seal.
    LateNoOne: ["two-servers", "surrender-fenced"], Some(Attack::HangSuccessor), 3;
    /// S9 (16): a sealed instance still evicts, as its file says.
    SealedEvicts: ["wait-kept"], None, 0;
    /// S10: writes go on after the freeze.
    HandoverUnfrozen: ["switchover-keeps"], Some(Attack::Switch), 0;
    /// S10: another one than the target is taken, which holds as much.
    TargetIgnored: ["switchover-goes-through"], Some(Attack::Switch), 0;
    /// S10: the handover goes on before the successor has the frozen offset.
    HandoverTooEarly: ["switchover-keeps"], Some(Attack::Switch), 41;
    /// S10 (11): the replicas are cut off at the freeze, and a ping comes between drain and seal.
    PingAfterDrain: ["switchover-goes-through"], Some(Attack::Switch), 2;
    /// S11: what an instance holds and the group lacks is counted as nothing.
    LossCountedZero: ["loss-told"], None, 6;
    /// S11: where nothing tells how much is lost, nothing is said to be.
    UnknownLossIsNone: ["loss-told"], None, 1;
    /// S11: the loss is on record on the node and never told to the others.
    LossUntold: ["loss-in-event"], None, 19;
    /// S11: an instance follows, and its data is thrown away, before it was saved.
    QuarantineSkipped: ["quarantine-first"], None, 1;
    /// S12 (13): the guardians change in one step.
    GuardiansAtOnce: LEASES, Some(Attack::Joint), 4;
    /// S12 (13): the primary says that it renews under both majorities, and counts the old one only.
    CountsOldMajority: LEASES, Some(Attack::Joint), 9;
    /// S12: seals count by the coming majority alone.
    SealsByOneMajority: ["promote-after-seals", "two-leases"], Some(Attack::Joint), 2;
    /// S14: the applied state goes back at a restart.
    StateGoesBack: ["epoch-monotonic"], None, 10;
    /// S14 (10): a cold start does not wait for those that could still report.
    ColdStartHurries: ["cold-start-waits"], Some(Attack::PowerCut), 0;
    /// S14: under `quorum` a cold start goes on without a member.
    QuorumColdStart: ["cold-start-waits"], Some(Attack::OneGone), 0;
    /// S14: an empty instance is chosen while a member is missing.
    EmptyWhileMissing: ["nothing-waits-for-all"], Some(Attack::OneGone), 0;
    /// S14: an empty instance is chosen though another holds data.
    EmptyChosen: ["never-empty-over-data"], Some(Attack::PowerCut), 9;
    /// Full resynchronisations wait for no turn.
    AllSyncAtOnce: ["syncs-in-turn"], Some(Attack::PowerCut), 0;
    /// Flap protection: it bars the only one that is left.
    PenanceBarsAll: ["settles"], Some(Attack::Flap), 0;
    /// Flap protection: faults are forgotten.
    FaultsForgotten: ["flap-bound"], Some(Attack::Flap), 0;
    /// Pause: promotions go on.
    PauseIgnored: ["paused-means-paused"], None, 0;
    /// Pause: it never ends by itself.
    PauseForEver: ["settles"], None, 10;
    /// Force: guardians seal at once, though the old primary's lease still runs.
    ForceSealsEarly: LEASES, Some(Attack::ForceCut), 0;
    /// Force: the named one is promoted without a majority of seals.
    ForceHurries: ["promote-after-seals"], Some(Attack::ForceCut), 0;
    /// Force: the event says that nothing was lost.
    ForceSaysKept: ["wait-kept"], Some(Attack::ForceLag), 0;
    /// Force: the prompt names nothing that may be lost.
    ForceSaysNothing: ["forced-loss-is-said"], Some(Attack::ForceLag), 0;
    /// Force: another one than the named one is promoted.
    ForceTakesAnother: ["forced-by-order"], Some(Attack::ForceLag), 0;
    /// Force: the group chooses by itself before the named one had its time.
    ForceGivesUpAtOnce: ["force-waits-for-its-node"], Some(Attack::ForceLag), 10;
    /// Force: a named one that never reports is waited for for ever.
    ForceWaitsForEver: ["settles"], Some(Attack::ForceDead), 4;
    /// Generations: the handshake takes nodes of an older one.
    GenerationUnchecked: ["older-generation-acts"], Some(Attack::Generation), 7;
    /// Generations: that its own is over is not recorded, and forgotten with a restart.
    GenerationForgotten: ["older-generation-acts"], Some(Attack::Generation), 13;
    /// Generations: who joins anew keeps the epochs that the older one counted, and what it holds of them passes for known.
    JoinKeepsEpochs: ["loss-told"], Some(Attack::Ambush(Ambush::StaleSurvivor)), 11;
    /// S13: of two sets of data the larger one is taken without being asked.
    FirstStartGuesses: ["adoption-never-guesses"], Some(Attack::TwoSets), 0;
    /// S13: who ran as the primary is forgotten when it is detached.
    AdoptionForgetsPrimary: ["adopted-primary-stays"], Some(Attack::Adopt), 0;
    /// S13: members are detached before everybody is introduced.
    AdoptionHurries: ["adoption-patient"], Some(Attack::Adopt), 0;
    /// S13: the adopted primary's replication history is cut, and its replicas must synchronise in full.
    AdoptionCutsHistory: ["adoption-continues", "settles"], Some(Attack::Adopt), 89;
    /// S13: what a joining member holds is thrown away unasked.
    ForeignDataWiped: ["foreign-data-kept"], Some(Attack::Strangers), 0;
    /// S14: a cold start takes the least offset.
    ColdStartTakesLeast: ["cold-start-keeps"], Some(Attack::PowerCut), 26;
    /// S14: a cold start compares offsets without regard to whose history they belong to.
    ColdStartByLength: ["cold-start-keeps"], Some(Attack::BranchCut), 53;
    /// S14: where an AOF keeps no offset, another than the last primary is taken.
    ColdStartPassesOver: ["cold-start-keeps"], Some(Attack::PowerCut), 150;
    /// S14: a cold start does not wait for the one that could still come.
    ColdStartWaitsForNobody: ["cold-start-waits"], Some(Attack::OneGone), 1;
}
