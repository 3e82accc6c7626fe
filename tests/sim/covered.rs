//! What runs went through, and the least that a batch must have gone through to prove anything.

macro_rules! counted {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Counts of one run, or of many.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct Covered { $($(#[doc = $doc])* pub $name: u64,)* }

        impl Covered {
            /// Another run's.
            pub fn add(&mut self, other: &Covered) { $(self.$name += other.$name;)* }
        }
    };
}

counted! {
    failovers,
    switchovers,
    fences,
    rejoins,
    carried_on,
    kept,
    best_reached,
    cold,
    forced,
    full_syncs,
    waits,
    plain,
    kills,
    joins,
    leaves,
    guardian_changes,
    pauses,
    handovers,
    quarantined,
    losses,
    orders,
    forced_losses,
    adoptions,
    bootstraps,
    foreign,
    generations,
    superseded,
    returned,
    gone,
    cold_by_offset,
    cold_by_place,
    cold_otherwise,
    late_commits,
    repeated,
    full_disks,
    events,
}

impl Covered {
    /// Fails if a batch of so many seeds was too tame.
    pub fn floor(&self, seeds: u64) {
        let floors = [
            ("failovers", self.failovers, seeds / 2),
            ("switchovers", self.switchovers, seeds / 10),
            ("handovers completed", self.handovers, seeds / 10),
            ("fences", self.fences, seeds / 2),
            ("rejoins", self.rejoins, seeds / 2),
            ("agents restarted within their lease", self.carried_on, seeds / 20),
            ("promotions with the guarantee", self.kept, seeds / 4),
            ("promotions without", self.best_reached, seeds / 20),
            ("cold starts", self.cold, seeds / 20),
            ("forced promotions", self.forced, seeds / 50),
            ("full resynchronisations", self.full_syncs, seeds / 2),
            ("hosts joined", self.joins, seeds / 20),
            ("hosts removed", self.leaves, seeds / 50),
            ("changes of guardians", self.guardian_changes, seeds / 20),
            ("orders to force", self.orders, seeds / 4),
            ("forced promotions that cost acknowledged writes", self.forced_losses, seeds / 40),
            ("first starts that found data", self.adoptions, seeds / 20),
            ("choices among two sets of data", self.bootstraps, seeds / 40),
            ("hosts that joined with data of their own", self.foreign, seeds / 100),
            ("new generations", self.generations, seeds / 100),
            ("hosts turned away for their generation", self.superseded, seeds / 50),
            ("hosts that joined anew", self.returned, seeds / 50),
            ("hosts that never returned", self.gone, seeds / 100),
            ("cold starts by offset", self.cold_by_offset, seeds / 40),
            ("cold starts by the last primary", self.cold_by_place, seeds / 40),
            ("commands that a later leader committed", self.late_commits, seeds / 20),
            ("messages that came twice", self.repeated, seeds),
            ("full disks", self.full_disks, seeds / 40),
            ("pauses", self.pauses, seeds / 20),
            ("instances that came back with more than the group", self.losses, seeds / 20),
            ("data sets quarantined", self.quarantined, seeds / 20),
            ("writes acknowledged by WAIT", self.waits, seeds * 20),
        ];
        for (what, count, least) in floors {
            assert!(count > least, "too few {what}: {count} in {seeds} seeds");
        }
    }
}
