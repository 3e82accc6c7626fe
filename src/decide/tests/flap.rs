//! Tables over flap protection: a fault that repeats does not move the primary back and forth, and never keeps the only
//! candidate from taking over.

use super::choose::report;
use super::*;
use crate::view::Faults;

/// A witness that leads and applies changes as time passes, in leases.
struct Watch {
    agent: Agent,
    state: State,
    now: u64,
}

impl Watch {
    fn begin() -> Self {
        let state = state(3);
        Self { agent: leader(&state), state, now: 1000 }
    }

    /// The primary's epoch ends for that reason, and `successor` is promoted.
    fn change(&mut self, after_leases: u64, why: Why, successor: u64) {
        apply(&mut self.state, seal(why));
        apply(&mut self.state, promotion(successor));
        for id in (1..=3).filter(|id| *id != successor) {
            apply(&mut self.state, GroupCommand::Follow { node: NodeId(id), run_id: RunId(format!("run{id}")) });
        }
        self.now += after_leases * 800;
        self.agent.at(self.now, What::Applied(Arc::new(self.state.clone())));
    }

    fn faults(&mut self, node: u64) -> u32 {
        self.agent.seat().faults.get(&NodeId(node)).map_or(0, |faults: &Faults| faults.count)
    }

    /// Who is chosen after the present primary's fault, of those with so much data of the present epoch.
    fn chosen(&mut self, reports: &[(u64, u64)]) -> Option<(u64, Guarantee)> {
        self.chosen_after(&[seal(Why::InstanceCrashed)], reports)
    }

    /// The same after these changes.
    fn chosen_after(&mut self, changes: &[GroupCommand], reports: &[(u64, u64)]) -> Option<(u64, Guarantee)> {
        let mut state = self.state.clone();
        changes.iter().for_each(|change| apply(&mut state, change.clone()));
        self.agent.at(self.now, What::Applied(Arc::new(state.clone())));
        let next = state.groups[&name()].epoch.next();
        let lineage = Some(state.groups[&name()].epoch.0);
        for guardian in [1, 2, 3] {
            self.agent.seat().seals.insert(NodeId(guardian), next);
        }
        for (node, offset) in reports {
            let said = Report { next, ..report(*node, lineage, *offset) };
            self.agent.seat().reports.insert(NodeId(*node), said);
        }
        let (view, group) = (&self.agent.view, self.agent.view.group(&name()).unwrap());
        match choose(view, &name(), group, &view.seats[&name()]) {
            Choice::Promote(chosen) => Some((chosen.node.0, chosen.guarantee)),
            Choice::Wait(_) => None,
        }
    }
}

/// Node 1 fails, is promoted again, and fails again; node 2 serves now.
fn flapped(why: Why) -> Watch {
    let mut watch = Watch::begin();
    watch.change(1, why, 2);
    watch.change(1, Why::Operator, 1);
    watch.change(1, why, 2);
    watch
}

#[test]
fn faults_in_a_row_are_counted_and_planned_changes_are_none() {
    for (why, count) in [
        (Why::InstanceCrashed, 2),
        (Why::LeaseLapsed, 2),
        (Why::NeverServed, 2),
        (Why::PrimarySilent, 2),
        (Why::Operator, 0),
        (Why::Shutdown, 0),
    ] {
        assert_eq!(flapped(why).faults(1), count, "{why:?}");
    }
    let mut late = Watch::begin();
    late.change(1, Why::InstanceCrashed, 2);
    late.change(1, Why::Operator, 1);
    late.change(20, Why::InstanceCrashed, 2);
    assert_eq!(late.faults(1), 1, "long ago is forgotten");
}

/// Found by the simulator, seed 620: an operator's switchover went back to the old primary, as if much might be lost.
#[test]
fn who_flaps_is_not_passed_over_where_an_operator_names_it() {
    let named = [GroupCommand::Switch { to: NodeId(1), why: Why::Operator }, seal(Why::Operator)];
    let same = [(1, 90), (2, 90), (3, 80)];
    let mut watch = flapped(Why::InstanceCrashed);
    assert_eq!(watch.chosen_after(&named, &same), Some((1, Guarantee::Kept)));
    // Passed over, it still proves what the others hold.
    assert_eq!(flapped(Why::InstanceCrashed).chosen(&[(1, 90), (3, 90), (2, 90)]), Some((2, Guarantee::Kept)));
}

#[test]
fn who_flaps_is_passed_over_only_for_one_that_holds_as_much() {
    let kept = |node| Some((node, Guarantee::Kept));
    let same = [(1, 90), (2, 50), (3, 90)];
    assert_eq!(flapped(Why::Operator).chosen(&same), kept(1), "nothing against it");
    assert_eq!(flapped(Why::InstanceCrashed).chosen(&same), kept(3));
    // The primary's own host is the one that is lost: what is left of three is enough.
    assert_eq!(flapped(Why::InstanceCrashed).chosen(&[(1, 90), (3, 90)]), kept(3));
    assert_eq!(
        flapped(Why::InstanceCrashed).chosen(&[(1, 90), (2, 50), (3, 89)]),
        kept(1),
        "no write for a quiet night"
    );
    let mut alone = flapped(Why::InstanceCrashed);
    apply(&mut alone.state, GroupCommand::SetPriority { node: NodeId(2), priority: 0 });
    apply(&mut alone.state, GroupCommand::SetPriority { node: NodeId(3), priority: 0 });
    assert_eq!(alone.chosen(&same), kept(1), "it alone may be promoted");
}

#[test]
fn the_penance_doubles_and_has_an_end() {
    let faults = |count| Faults { count, ..Faults::default() };
    for (count, leases) in [(0, 0), (1, 0), (2, 10), (3, 20), (4, 40), (5, 80)] {
        assert_eq!(faults(count).penance(LEASE), LEASE * leases, "{count}");
    }
    assert_eq!(faults(40).penance(LEASE), Duration::from_secs(600));
    let mut watch = flapped(Why::InstanceCrashed);
    watch.now += 9 * 800;
    assert_eq!(watch.chosen(&[(1, 90), (2, 50), (3, 90)]), Some((3, Guarantee::Kept)));
    watch.now += 2 * 800;
    assert_eq!(watch.chosen(&[(1, 90), (2, 50), (3, 90)]), Some((1, Guarantee::Kept)), "it is over");
}
