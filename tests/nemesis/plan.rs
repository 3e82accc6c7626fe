//! What strikes in a round: drawn from the seed and the round's number alone, so that a round can be told again.
//!
//! Pure. Even rounds have a single fault, dealt from a shuffled deck so that every kind comes up; odd rounds have
//! several that overlap, dealt from another. Who is hit may be named by its part ("the primary"): which host that is
//! turns out when the fault strikes.

use std::time::Duration;

use crate::lab::ms;
use crate::policy::Prng;
use crate::switch::HostNo;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillAgent,
    KillRedis,
    FreezeAgent,
    FreezeRedis,
    Unplug,
    Isolate,
    /// Nothing passes from this host to one other, or from that one to it.
    OneWay,
    /// 20 % of all frames from and to the host are lost.
    Lossy,
    /// Every frame from and to the host takes up to 200 ms longer.
    Jitter,
    DiskFull,
    DiskHang,
    /// The wall clock jumps an hour either way, and back.
    ClockJump,
    DebugSleep,
    ClientPause,
    /// A script without end, or one of some seconds that has written, so that nothing can stop it.
    Script,
    ConfigRewrite,
    /// SIGTERM, and started again.
    RestartAgent,
    /// A power cut.
    RestartHost,
    /// A power cut, and back with empty disks: a new node of the same name.
    ReplaceHost,
    /// Removed by an operator, and back as a new node.
    Leave,
    /// The agent dies and its store is gone, while the instance runs on: a new node of the same name.
    LoseStore,
    /// Two witnesses join, and are removed afterwards.
    Join,
    Switchover,
}

pub const KINDS: [Kind; 23] = [
    Kind::KillAgent,
    Kind::KillRedis,
    Kind::FreezeAgent,
    Kind::FreezeRedis,
    Kind::Unplug,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Lossy,
    Kind::Jitter,
    Kind::DiskFull,
    Kind::DiskHang,
    Kind::ClockJump,
    Kind::DebugSleep,
    Kind::ClientPause,
    Kind::Script,
    Kind::ConfigRewrite,
    Kind::RestartAgent,
    Kind::RestartHost,
    Kind::ReplaceHost,
    Kind::Leave,
    Kind::LoseStore,
    Kind::Join,
    Kind::Switchover,
];

impl Kind {
    /// An instance may lose its memory by it: what answers nothing for long is taken for hung, and killed. With no
    /// persistence, or an old snapshot, two such hosts at once lose what both held, and no rule could keep it: the faults
    /// of one round that are of this sort hit one and the same host. So does a lost store: the data is there, and nobody
    /// can vouch for it any more.
    pub fn takes_memory(self) -> bool {
        use Kind::{ClientPause, DebugSleep, FreezeRedis, KillRedis, RestartHost, Script};
        self.takes_store() || matches!(self, KillRedis | FreezeRedis | DebugSleep | ClientPause | Script | RestartHost)
    }

    /// The agent comes back with an empty store.
    pub fn takes_store(self) -> bool {
        matches!(self, Kind::ReplaceHost | Kind::Leave | Kind::LoseStore)
    }

    /// It is done to an instance: a witness has none.
    pub fn is_of_redis(self) -> bool {
        use Kind::{ClientPause, ConfigRewrite, DebugSleep, FreezeRedis, KillRedis, Script};
        matches!(self, KillRedis | FreezeRedis | DebugSleep | ClientPause | Script | ConfigRewrite)
    }

    /// Alone, it must not change the primary.
    pub fn is_harmless(self) -> bool {
        matches!(self, Kind::DiskFull | Kind::DiskHang | Kind::ClockJump | Kind::ConfigRewrite | Kind::Join)
    }

    /// Alone, it must not lose a single acknowledged write.
    pub fn loses_nothing(self) -> bool {
        self.is_harmless()
            || matches!(self, Kind::KillAgent | Kind::Switchover | Kind::RestartAgent | Kind::ClientPause)
    }
}

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Who holds the floating address when it strikes.
    Primary,
    Host(HostNo),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub whom: Whom,
    pub at: Duration,
    pub lasts: Duration,
    /// For what else there is to choose.
    pub dice: u64,
}

/// The faults of one round.
pub fn plan(seed: u64, round: u64, kinds: &[Kind], hosts: u8) -> Vec<Fault> {
    let mut chance = Prng::stream(seed, 0x5EED_0000 + round);
    let turn = round / 2;
    if round.is_multiple_of(2) {
        return vec![fault(dealt(seed, 1, kinds, turn), Duration::ZERO, hosts, &mut chance)];
    }
    let several = 2 + chance.next_u64() % 3;
    (0..several)
        .map(|i| {
            // Four cards of the deck are set aside for each round.
            let kind = dealt(seed, 2, kinds, turn * 4 + i);
            let at = ms(chance.next_u64() % 2000);
            fault(kind, at, hosts, &mut chance)
        })
        .collect()
}

fn fault(kind: Kind, at: Duration, hosts: u8, chance: &mut Prng) -> Fault {
    let host = 1 + (chance.next_u64() % u64::from(hosts)) as HostNo;
    let whom = if chance.unit() < 0.6 { Whom::Primary } else { Whom::Host(host) };
    let lasts = ms(300 + chance.next_u64() % 3200);
    Fault { kind, whom, at, lasts, dice: chance.next_u64() }
}

/// The n-th card of a row of shuffled decks.
fn dealt(seed: u64, purpose: u64, kinds: &[Kind], n: u64) -> Kind {
    let size = kinds.len() as u64;
    let mut shuffle = Prng::stream(seed, (purpose << 48) + n / size);
    let mut deck = kinds.to_vec();
    for i in (1..deck.len()).rev() {
        deck.swap(i, (shuffle.next_u64() % (i as u64 + 1)) as usize);
    }
    deck[(n % size) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_follows_from_seed_and_number() {
        assert_eq!(plan(7, 3, &KINDS, 3), plan(7, 3, &KINDS, 3));
        assert_ne!(plan(7, 3, &KINDS, 3), plan(8, 3, &KINDS, 3));
        assert_eq!(plan(7, 4, &KINDS, 3).len(), 1);
        assert!(plan(7, 5, &KINDS, 3).len() >= 2);
    }

    #[test]
    fn every_kind_comes_up() {
        let singles: Vec<Kind> = (0..KINDS.len() as u64).map(|turn| plan(1, 2 * turn, &KINDS, 3)[0].kind).collect();
        assert!(KINDS.iter().all(|kind| singles.contains(kind)), "{singles:?}");
    }
}
