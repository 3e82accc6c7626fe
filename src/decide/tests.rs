//! Tables over `decide`: what protects comes first, who is chosen, when an epoch ends, and in which order it is given up.

use super::*;
use crate::cluster::{
    Attached, GroupCommand, Guarantee, GuardianChange, Incarnation, Lineage, LocalGroup, Node, Offset, State, Version,
};
use crate::view::{
    Condition, Info, Leadership, Outcome, Posture, Renewal, ReplicaRow, Report, Serving, Sight, Slot, Stamp, VipSight,
};
use std::sync::Arc;

mod choose;
mod cold;
mod flap;
mod force;
mod leave;
mod passed_over;
mod pause;
mod poll;
mod tries;
mod unit;
use poll::leader;

const LEASE: Duration = Duration::from_millis(800);
const NOWHERE: &str = "127.0.0.1:1";
const PRIMARY: &str = "10.0.0.1:6379";

fn name() -> GroupName {
    GroupName::from("g")
}

fn ms(at: u64) -> Moment {
    Moment(at * 1_000_000)
}

fn apply(state: &mut State, change: GroupCommand) {
    let expect = state.groups[&name()].expect();
    assert_eq!(state.apply(&Command::Group { group: name(), expect, change }), Ok(()));
}

fn promotion(successor: u64) -> GroupCommand {
    GroupCommand::Promote {
        successor: NodeId(successor),
        run_id: RunId(format!("run{successor}")),
        start: Offset(100),
        data: None,
        guarantee: Guarantee::Kept,
        at_unix_ms: 0,
    }
}

/// The admission of `state` that is dropped: it was committed at that version.
fn drop_of(n: u64) -> GroupCommand {
    GroupCommand::Drop { node: NodeId(n), since: state(3).groups[&name()].followers[&NodeId(n)].since }
}

fn seal(why: Why) -> GroupCommand {
    GroupCommand::Seal { why }
}

fn own(n: u64) -> GroupPolicy {
    let announce = format!("10.0.0.{n}:6379");
    GroupPolicy { announce, priority: 100, durability: Durability::Available, vip: true }
}

fn policy(n: u64) -> Policy {
    let groups = BTreeMap::from([(name(), own(n))]);
    let address = format!("10.0.0.{n}:7400");
    Policy { address, lease: LEASE, hang_after: Duration::from_secs(5), groups }
}

/// `members` nodes and one witness, all guardians; node 1 is primary of epoch 1, the others are in F.
fn state(members: u64) -> State {
    let mut state = State::default();
    for id in 1..=members + 1 {
        let (name, address) = (format!("n{id}"), format!("10.0.0.{id}:7400"));
        let record = Node { name, address, incarnation: Incarnation(u128::from(id)), introduced: false };
        assert_eq!(state.apply(&Command::AddNode { node: NodeId(id), record }), Ok(()));
    }
    let next = (1..=members + 1).map(NodeId).collect();
    assert_eq!(state.apply(&Command::Guardians(GuardianChange::Begin { next })), Ok(()));
    for id in 1..=members {
        assert_eq!(state.apply(&policy(id).introduction(NodeId(id))), Ok(()));
    }
    let witness = Policy { groups: BTreeMap::new(), ..policy(members + 1) };
    assert_eq!(state.apply(&witness.introduction(NodeId(members + 1))), Ok(()));
    apply(&mut state, promotion(1));
    for id in 2..=members {
        apply(&mut state, GroupCommand::Follow { node: NodeId(id), run_id: RunId(format!("run{id}")) });
    }
    state
}

fn changed(members: u64, changes: &[GroupCommand]) -> State {
    let mut state = state(members);
    changes.iter().for_each(|change| apply(&mut state, change.clone()));
    state
}

/// An agent at work: it started at 1 s.
struct Agent {
    view: View,
    policy: Policy,
}

impl Agent {
    fn new(me: u64, state: &State, stamp: Option<Stamp>) -> Self {
        let member = state.groups[&name()].members.contains_key(&NodeId(me));
        let policy = if member { policy(me) } else { Policy { groups: BTreeMap::new(), ..policy(me) } };
        let stamps = stamp.into_iter().map(|stamp| (name(), stamp)).collect();
        let mine = policy.groups.keys().cloned().collect();
        let local = Local { longest_lease: LEASE, ..Local::default() };
        let view = View::new(NodeId(me), ms(1000), Arc::new(state.clone()), local, &stamps, mine);
        Self { view, policy }
    }

    fn at(&mut self, time: u64, what: What) -> Vec<Action> {
        let mut actions = step(&mut self.view, &self.policy, Event { at: ms(time), what }).actions;
        // The disk is quick here.
        if let Some(Action::Save(local)) = actions.iter().find(|action| matches!(action, Action::Save(_))).cloned() {
            let event = Event { at: ms(time), what: What::Saved(local) };
            actions.extend(step(&mut self.view, &self.policy, event).actions);
        }
        actions
    }

    fn tick(&mut self, time: u64) -> Vec<Action> {
        self.at(time, What::Tick { unix_ms: 0 })
    }

    /// Time passes tick by tick, and every task ends at once: all that was to be done meanwhile.
    fn pass(&mut self, from: u64, to: u64) -> Vec<Action> {
        let mut done = Vec::new();
        for time in (from..to).step_by(100).skip(1).chain([to]) {
            self.seat().instance.task = None;
            done.extend(self.tick(time));
        }
        done
    }

    fn heard(&mut self, time: u64, from: u64, item: Item) -> Vec<Action> {
        self.at(time, What::Heard { from: NodeId(from), items: vec![item] })
    }

    fn looked(&mut self, time: u64, info: Info) -> Vec<Action> {
        let info = Info { asked: ms(time), ..info };
        self.at(time, What::Instance { group: name(), seen: Sight::Info(info) })
    }

    fn saw(&mut self, time: u64, seen: Sight) -> Vec<Action> {
        self.at(time, What::Instance { group: name(), seen })
    }

    fn done(&mut self, time: u64, task: Task, epoch: u64, outcome: Outcome) -> Vec<Action> {
        self.at(time, What::Done { group: name(), task, epoch: Epoch(epoch), outcome })
    }

    fn seat(&mut self) -> &mut crate::view::Seat {
        self.view.seats.get_mut(&name()).unwrap()
    }
}

fn info(run: u64, upstream: Option<&str>) -> Info {
    Info {
        run_id: RunId(format!("run{run}")),
        primary: upstream.is_none(),
        replid: "id1".into(),
        replid2: "id0".into(),
        offset: Offset(200),
        upstream: upstream.map(str::to_owned),
        link_up: upstream.is_some_and(|upstream| upstream != NOWHERE),
        keys: 5,
        ..Info::default()
    }
}

fn good(info: Info) -> Outcome {
    Outcome::Done { info, clean: true }
}

fn promise(sent: u64) -> Item {
    Item::Promise { group: name(), epoch: Epoch(1), sent_at: ms(sent) }
}

fn renewal(serving: bool) -> Item {
    let (replid, replid2) = ("id1".into(), "id0".into());
    let offer = Serving {
        replid,
        replid2,
        offset: Offset(200),
        followers: BTreeMap::new(),
        backlog: Offset(1),
        full: Slot::Free,
    };
    Item::Renew(Renewal {
        group: name(),
        epoch: Epoch(1),
        sent_at: ms(1),
        lease: LEASE,
        left: LEASE / 2,
        version: Version(100),
        guardians: Version(1),
        serving: serving.then_some(offer),
    })
}

/// Node 1, promoted with two followers attached, serving with a lease until about 1.67 s.
fn serving(state: &State) -> Agent {
    let mut agent = Agent::new(1, state, None);
    agent.seat().lease.held = false;
    agent.looked(1000, info(1, Some(NOWHERE)));
    agent.heard(1002, 2, promise(1000));
    agent.heard(1002, 3, promise(1000));
    assert!(agent.view.lease_live(&name()));
    let row = |n| ReplicaRow { address: format!("10.0.0.{n}:6379"), online: true, syncing: false, offset: Offset(200) };
    let serving = Info { replicas: vec![row(2), row(3)], ..info(1, None) };
    agent.done(1010, Task::Serve, 1, good(serving.clone()));
    agent.looked(1015, serving.clone());
    agent.done(1020, Task::Tune, 1, good(serving));
    assert_eq!(agent.seat().instance.posture, Posture::Serving(Epoch(1)));
    agent
}

fn fences(actions: &[Action]) -> Option<Why> {
    actions.iter().find_map(|action| if let Action::Fence { why, .. } = action { Some(*why) } else { None })
}

fn surrenders(actions: &[Action]) -> bool {
    let says = |items: &[Item]| items.iter().any(|item| matches!(item, Item::Surrender { .. }));
    actions.iter().any(|action| matches!(action, Action::Send { items, .. } if says(items)))
}

fn renews(actions: &[Action]) -> bool {
    let says = |items: &[Item]| items.iter().any(|item| matches!(item, Item::Renew(_)));
    actions.iter().any(|action| matches!(action, Action::Send { items, .. } if says(items)))
}

fn proposed(actions: &[Action]) -> Option<GroupCommand> {
    actions.iter().find_map(|action| match action {
        Action::Propose { command: Command::Group { change, .. }, .. } => Some(change.clone()),
        _ => None,
    })
}

#[test]
fn s1_a_lapsed_lease_is_fenced_before_anything_else() {
    let mut agent = serving(&state(3));
    assert_eq!(fences(&agent.tick(1600)), None);
    let actions = agent.tick(1667);
    assert_eq!(fences(&actions), Some(Why::LeaseLapsed));
    assert!(matches!(actions[0], Action::Fence { .. }), "{:?}", actions[0]);
    assert!(!renews(&actions), "and nothing is renewed with it");
}

#[test]
fn s1_a_successor_without_a_lease_gives_up_after_one() {
    let mut agent = Agent::new(1, &state(3), None);
    agent.seat().lease.held = false;
    agent.looked(1001, info(1, Some(NOWHERE)));
    assert_eq!(fences(&agent.tick(1799)), None);
    assert_eq!(fences(&agent.tick(1800)), Some(Why::NeverServed));
}

#[test]
fn s1_nothing_is_served_without_a_lease() {
    let serve = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Serve { .. }));
    let mut agent = Agent::new(1, &state(3), None);
    agent.seat().lease.held = false;
    assert!(!serve(&agent.looked(1001, info(1, Some(NOWHERE)))));
    let sent = agent.seat().lease.renewed_at.unwrap().0 / 1_000_000;
    assert!(!serve(&agent.heard(1003, 2, promise(sent))), "two of four guardians");
    assert!(serve(&agent.heard(1003, 3, promise(sent))));
}

#[test]
fn s1_restarted_within_the_stamped_lease_it_carries_on() {
    let until = ms(1500);
    let stamp = Stamp::Leased { epoch: Epoch(1), run_id: "run1".into(), until };
    let mut agent = Agent::new(1, &state(3), Some(stamp));
    assert_eq!(fences(&agent.tick(1001)), None);
    assert_eq!(fences(&agent.looked(1002, info(1, None))), None);
    assert_eq!(fences(&agent.tick(1501)), Some(Why::LeaseLapsed));
    let mut late = Agent::new(1, &state(3), None);
    assert_eq!(fences(&late.tick(1001)), Some(Why::LeaseLapsed), "found lapsed: before anything else");
}

#[test]
fn s2_s9_fence_then_mark_then_surrender() {
    let mut agent = serving(&state(3));
    assert_eq!(fences(&agent.tick(1700)), Some(Why::LeaseLapsed));
    let marks = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Mark { .. }));
    // Promises that come late revive nothing.
    agent.heard(1701, 2, promise(1690));
    let actions = agent.heard(1701, 3, promise(1690));
    assert!(!marks(&actions) && !surrenders(&actions) && !renews(&actions));
    let actions = agent.done(1710, Task::Fence, 1, good(info(1, Some(NOWHERE))));
    assert!(marks(&actions) && !surrenders(&actions));
    let actions = agent.at(1712, What::Marked { group: name(), epoch: Epoch(1) });
    assert!(surrenders(&actions));
    let actions = agent.tick(1900);
    assert!(surrenders(&actions) && !renews(&actions), "repeated, and final");
    assert_eq!(fences(&actions), None);
}

#[test]
fn s2_the_mark_survives_the_agent() {
    let mut agent = Agent::new(1, &state(3), Some(Stamp::Surrendered { epoch: Epoch(1) }));
    let actions = agent.looked(1001, info(1, Some(NOWHERE)));
    assert!(surrenders(&actions) && !renews(&actions));
    assert_eq!(fences(&actions), None, "it was fenced before it was marked");
}

#[test]
fn s6_another_process_is_not_served() {
    let mut agent = serving(&state(3));
    assert_eq!(fences(&agent.looked(1100, info(9, Some(NOWHERE)))), Some(Why::InstanceRestarted));
}

#[test]
fn s7_sure_faults_fast_unsure_ones_patiently() {
    let silent = |ms, progress| Sight::Silent { length: Duration::from_millis(ms), progress };
    let outcome = |seen: Sight, after: u64| {
        let mut agent = serving(&state(3));
        let first = fences(&agent.saw(1100, seen));
        // The lease is kept alive while time passes.
        let end = ms(1100 + after) + LEASE;
        agent.seat().lease.promised.values_mut().for_each(|until| *until = end);
        first.or(fences(&agent.pass(1100, 1100 + after)))
    };
    assert_eq!(outcome(Sight::Gone, 0), Some(Why::InstanceCrashed));
    assert_eq!(outcome(Sight::Loading, 60_000), None, "a load is never killed");
    assert_eq!(outcome(Sight::Busy, 60_000), None);
    assert_eq!(outcome(silent(100, false), 4899), None);
    assert_eq!(outcome(silent(100, false), 4900), Some(Why::InstanceHung));
    assert_eq!(outcome(silent(100, true), 60_000), None, "it works");
}

/// Found by the simulator, seed 4334: an agent that had stood still killed an instance that had been silent for a moment
/// before.
#[test]
fn s7_an_agent_s_own_standstill_is_no_silence() {
    let kills = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Kill { .. }));
    let mut agent = Agent::new(2, &state(3), None);
    agent.looked(1001, info(2, Some(PRIMARY)));
    agent.saw(1100, Sight::Silent { length: Duration::from_millis(100), progress: false });
    agent.seat().instance.task = None;
    assert!(!kills(&agent.tick(61_100)), "it asked nobody for a minute");
    assert!(!kills(&agent.saw(61_110, Sight::Silent { length: Duration::from_secs(60), progress: false })));
    assert!(!kills(&agent.pass(61_110, 65_900)));
    assert!(kills(&agent.pass(65_900, 66_100)), "hang_after of being looked at");
}

#[test]
fn s7_a_busy_script_is_stopped_once() {
    let mut agent = serving(&state(3));
    let kills = |actions: &[Action]| actions.iter().filter(|a| matches!(a, Action::ScriptKill { .. })).count();
    assert_eq!(kills(&agent.saw(1100, Sight::Busy)), 1);
    assert_eq!(kills(&agent.saw(1110, Sight::Busy)), 0);
    agent.done(1120, Task::ScriptKill, 0, good(info(1, None)));
    agent.saw(1130, Sight::Busy);
    assert_eq!(kills(&agent.tick(1140)), 0);
}

#[test]
fn s7_a_hung_replica_is_killed_and_a_loading_one_never() {
    let kills = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Kill { .. }));
    for (seen, killed) in [
        (Sight::Silent { length: Duration::from_millis(100), progress: false }, true),
        (Sight::Silent { length: Duration::from_millis(100), progress: true }, false),
        (Sight::Loading, false),
        (Sight::Gone, false),
    ] {
        let mut agent = Agent::new(2, &state(3), None);
        agent.looked(1001, info(2, Some(PRIMARY)));
        agent.saw(1100, seen.clone());
        // Whatever else it was about to do ends first.
        agent.seat().instance.task = None;
        assert_eq!(kills(&agent.pass(1100, 6100)), killed, "{seen:?}");
    }
}

fn follower() -> Agent {
    let mut agent = Agent::new(2, &state(3), None);
    let attached = Attached {
        run_id: "run2".into(),
        epoch: Epoch(1),
        replid: "id1".into(),
        from: "id0".into(),
        home: Some(Epoch(0)),
    };
    let lineage = Some(Lineage { run_id: "run2".into(), epoch: Epoch(1) });
    let group = LocalGroup { lineage, attached: Some(attached), ..LocalGroup::default() };
    agent.view.local.groups.insert(name(), group);
    agent.view.saved = agent.view.local.clone();
    agent.looked(1001, info(2, Some(PRIMARY)));
    agent
}

#[test]
fn s8_detaches_when_the_primary_is_unheard_for_a_lease() {
    let seals = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Seal { .. }));
    let mut agent = follower();
    agent.heard(2000, 1, renewal(true));
    assert_eq!(agent.seat().instance.posture, Posture::Following(Epoch(1)));
    assert!(!seals(&agent.tick(2799)));
    assert!(seals(&agent.tick(2800)));
    // Restarted, it gives the primary a lease to be heard.
    let mut fresh = follower();
    assert!(!seals(&fresh.tick(1799)));
    assert!(seals(&fresh.tick(1800)));
}

#[test]
fn s8_the_vip_is_refreshed_on_fresh_promises_only() {
    let holds = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::HoldVip { .. }));
    let mut agent = serving(&state(3));
    agent.at(1021, What::Vip { group: name(), seen: VipSight::Held });
    assert!(agent.seat().vip.refreshed_at.is_some());
    assert!(!holds(&agent.tick(1500)), "no promise since the last refresh");
    agent.heard(1501, 2, promise(1480));
    assert!(!holds(&agent.tick(1502)), "no majority yet");
    assert!(holds(&agent.heard(1503, 3, promise(1480))));
    let mut other = Agent::new(2, &state(3), None);
    other.at(1001, What::Vip { group: name(), seen: VipSight::Held });
    let drops = |action: &Action| matches!(action, Action::DropVip { .. });
    assert!(other.tick(1010).iter().any(drops), "nothing is served here");
}

#[test]
fn s10_handover_then_fence_then_mark() {
    let switch = GroupCommand::Switch { to: NodeId(2), why: Why::Operator };
    let mut agent = serving(&state(3));
    let actions = agent.at(1100, What::Applied(Arc::new(changed(3, std::slice::from_ref(&switch)))));
    let handover = |action: &Action| matches!(action, Action::Handover { to, .. } if to == "10.0.0.2:6379");
    assert!(actions.iter().any(handover));
    assert_eq!(fences(&actions), None, "it serves until it is frozen");
    let actions = agent.done(1150, Task::Handover, 1, good(info(1, Some(NOWHERE))));
    assert_eq!(fences(&actions), Some(Why::Operator));
    let actions = agent.done(1160, Task::Fence, 1, good(info(1, Some(NOWHERE))));
    assert!(actions.iter().any(|action| matches!(action, Action::Mark { .. })));
    assert!(surrenders(&agent.at(1161, What::Marked { group: name(), epoch: Epoch(1) })));
}

#[test]
fn s10_a_handover_that_failed_is_called_off() {
    let switch = GroupCommand::Switch { to: NodeId(2), why: Why::Operator };
    let mut agent = serving(&state(3));
    agent.at(1100, What::Applied(Arc::new(changed(3, &[switch]))));
    let failed = Outcome::Failed { why: "too slow".to_owned() };
    let actions = agent.done(1150, Task::Handover, 1, failed);
    assert_eq!(fences(&actions), None);
    assert_eq!(proposed(&actions), Some(GroupCommand::SwitchOff));
    assert_eq!(agent.seat().instance.posture, Posture::Serving(Epoch(1)));
}

#[test]
fn s5_min_replicas_is_set_once() {
    let mut agent = serving(&state(3));
    let tunes = |actions: &[Action]| actions.iter().filter(|a| matches!(a, Action::Tune { .. })).count();
    assert_eq!(agent.seat().instance.tuned, Some(("run1".into(), 1)));
    assert_eq!(tunes(&agent.tick(1030)), 0);
    // The commit that empties F lets it write alone.
    let empty = changed(3, &[drop_of(2), drop_of(3)]);
    let actions = agent.at(1040, What::Applied(Arc::new(empty)));
    assert!(actions.iter().any(|action| matches!(action, Action::Tune { min_replicas: 0, .. })));
}

#[test]
fn s3_a_member_seals_and_reports_what_is_on_disk() {
    let reports = |actions: &[Action]| {
        let says = |items: &[Item]| items.iter().any(|item| matches!(item, Item::Report(_)));
        actions.iter().any(|action| matches!(action, Action::Send { items, .. } if says(items)))
    };
    let mut agent = follower();
    agent.heard(1990, 1, renewal(true));
    let sealing = changed(3, &[seal(Why::PrimarySilent)]);
    let actions = agent.at(2000, What::Applied(Arc::new(sealing)));
    assert!(actions.iter().any(|action| matches!(action, Action::Seal { epoch: Epoch(2), .. })));
    assert!(!reports(&actions));
    let outcome = good(info(2, Some(NOWHERE)));
    let what = What::Done { group: name(), task: Task::Seal, epoch: Epoch(2), outcome };
    let actions = step(&mut agent.view, &agent.policy, Event { at: ms(2010), what }).actions;
    assert!(!reports(&actions), "not before it is saved");
    let saved = actions.iter().find_map(|a| if let Action::Save(local) = a { Some(local.clone()) } else { None });
    assert!(reports(&agent.at(2015, What::Saved(saved.unwrap()))));
}

#[test]
fn s5_a_process_that_is_not_in_f_asks_to_be_let_in() {
    let mut agent = follower();
    agent.looked(1900, info(9, Some(NOWHERE)));
    let wish = proposed(&agent.heard(1990, 1, renewal(true)));
    assert_eq!(wish, Some(GroupCommand::Follow { node: NodeId(2), run_id: "run9".into() }));
    assert_eq!(agent.seat().instance.condition, Condition::Up);
}
