//! Tables over `observe`: promises, the lease, seals, surrender, restarts, lineage, conditions.

use super::*;
use crate::cluster::{
    Attached, Command, Durability, GroupCommand, GroupIntro, Guarantee, GuardianChange, Incarnation, Lineage,
    LocalGroup, Node, Offset, Phase, Version,
};

mod diverge;
mod full;
mod holder;
mod leave;
mod lineage;
mod membership;

const LEASE: Duration = Duration::from_millis(800);

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

fn promotion(successor: u64, start: u64) -> GroupCommand {
    GroupCommand::Promote {
        successor: NodeId(successor),
        run_id: RunId(format!("run{successor}")),
        start: Offset(start),
        data: Some(Epoch(successor - 1)),
        guarantee: Guarantee::Kept,
        at_unix_ms: 0,
    }
}

/// `n` nodes, node 1 primary of epoch 1 from offset 100, the others in F.
fn state(n: u64) -> State {
    let mut state = State::default();
    for id in 1..=n {
        let (name, address) = (format!("n{id}"), format!("10.0.0.{id}:7400"));
        let record = Node { name, address, incarnation: Incarnation(u128::from(id)), introduced: false };
        assert_eq!(state.apply(&Command::AddNode { node: NodeId(id), record }), Ok(()));
    }
    let next = (1..=n).map(NodeId).collect();
    assert_eq!(state.apply(&Command::Guardians(GuardianChange::Begin { next })), Ok(()));
    for id in 1..=n {
        let announce = format!("10.0.0.{id}:6379");
        let intro = GroupIntro { group: name(), announce, priority: 100, durability: Durability::Available };
        let command = Command::Introduce {
            node: NodeId(id),
            address: format!("10.0.0.{id}:7400"),
            lease: LEASE,
            groups: vec![intro],
        };
        assert_eq!(state.apply(&command), Ok(()));
    }
    apply(&mut state, promotion(1, 100));
    for id in 2..=n {
        apply(&mut state, GroupCommand::Follow { node: NodeId(id), run_id: RunId(format!("run{id}")) });
    }
    state
}

fn sealing(n: u64) -> State {
    let mut state = state(n);
    apply(&mut state, GroupCommand::Seal { why: Why::PrimarySilent });
    state
}

/// A node that starts at 1 s with `state` applied. A guardian of long standing: it was silent before.
fn view(me: u64, state: &State, local: Local, stamp: Option<Stamp>) -> View {
    let stamps = stamp.into_iter().map(|stamp| (name(), stamp)).collect();
    View::new(NodeId(me), ms(1000), Arc::new(state.clone()), local, &stamps, [name()].into())
}

fn long_lease() -> Local {
    Local { longest_lease: LEASE, ..Local::default() }
}

fn at(view: &mut View, time: u64, what: What) {
    view.observe(Event { at: ms(time), what });
}

fn tick(view: &mut View, time: u64) {
    at(view, time, What::Tick { unix_ms: 0 });
}

fn heard(view: &mut View, time: u64, from: u64, item: Item) {
    at(view, time, What::Heard { from: NodeId(from), items: vec![item] });
}

fn applied(view: &mut View, time: u64, state: &State) {
    at(view, time, What::Applied(Arc::new(state.clone())));
}

fn renewal(epoch: u64, sent: u64) -> Renewal {
    Renewal {
        group: name(),
        epoch: Epoch(epoch),
        sent_at: ms(sent),
        lease: LEASE,
        left: LEASE / 2,
        version: Version(100),
        guardians: Version(1),
        serving: None,
    }
}

fn serving(offset: u64) -> Option<Serving> {
    let (replid, replid2) = ("id1".into(), "id0".into());
    Some(Serving {
        replid,
        replid2,
        offset: Offset(offset),
        followers: BTreeMap::new(),
        backlog: Offset(0),
        full: Slot::Free,
    })
}

fn promise(epoch: u64, sent: u64) -> Item {
    Item::Promise { group: name(), epoch: Epoch(epoch), sent_at: ms(sent) }
}

fn sealed_for(view: &View) -> Epoch {
    view.local.groups.get(&name()).map(|local| local.guardian_sealed).unwrap_or_default()
}

fn renewed(view: &mut View, time: u64) {
    at(view, time, What::Decided(Noted { renewals: vec![(name(), Epoch(1))], ..Noted::default() }));
}

fn info(run: u64, upstream: Option<&str>, replid: &str, offset: u64) -> Info {
    Info {
        run_id: RunId(format!("run{run}")),
        primary: upstream.is_none(),
        replid: replid.into(),
        replid2: "id0".into(),
        offset: Offset(offset),
        upstream: upstream.map(str::to_owned),
        link_up: upstream.is_some_and(|upstream| upstream != "127.0.0.1:1"),
        keys: 5,
        ..Info::default()
    }
}

fn looked(view: &mut View, time: u64, info: Info) {
    let seen = Sight::Info(Info { asked: ms(time), ..info });
    at(view, time, What::Instance { group: name(), seen });
}

fn lineage(view: &View) -> Option<Epoch> {
    view.local.groups.get(&name())?.lineage.as_ref().map(|lineage| lineage.epoch)
}

const PRIMARY: &str = "10.0.0.1:6379";
const NOWHERE: &str = "127.0.0.1:1";

#[test]
fn s1_lease_is_five_sixths_from_sending() {
    // The answer comes late: what counts is when the question was sent.
    for (sent, received, end) in [(1000, 1001, 1666), (1000, 1500, 1666), (1200, 1201, 1866)] {
        let mut view = view(1, &state(3), long_lease(), None);
        renewed(&mut view, sent);
        heard(&mut view, received, 2, promise(1, sent));
        assert_eq!(view.lease_end(&name()).unwrap().0 / 1_000_000, end, "sent {sent}, received {received}");
        tick(&mut view, end);
        assert!(view.lease_live(&name()));
        tick(&mut view, end + 1);
        assert!(!view.lease_live(&name()));
    }
}

#[test]
fn s1_no_promise_counts_that_answers_nothing_sent() {
    let mut view = view(1, &state(3), long_lease(), None);
    for item in [promise(1, 5000), promise(2, 1000), promise(0, 1000)] {
        heard(&mut view, 1100, 2, item);
        heard(&mut view, 1100, 3, promise(1, 9000));
        assert_eq!(view.lease_end(&name()), None);
    }
}

#[test]
fn s1_a_majority_of_guardians() {
    // Guardians; those who promised besides the primary itself; enough.
    let cases: [(u64, &[u64], bool); 7] = [
        (1, &[], true),
        (2, &[], false),
        (2, &[2], true),
        (3, &[], false),
        (3, &[3], true),
        (5, &[2], false),
        (5, &[2, 5], true),
    ];
    for (guardians, promised, enough) in cases {
        let mut view = view(1, &state(guardians), long_lease(), None);
        renewed(&mut view, 1000);
        for from in promised {
            heard(&mut view, 1010, *from, promise(1, 1000));
        }
        assert_eq!(view.lease_live(&name()), enough, "{guardians} guardians, {promised:?}");
    }
}

#[test]
fn s12_both_majorities_while_guardians_change() {
    let mut joint = state(5);
    joint.guardians.now = [1, 2, 3].map(NodeId).into();
    joint.guardians.next = Some([3, 4, 5].map(NodeId).into());
    for (promised, enough) in [(vec![2, 3], false), (vec![4, 5], false), (vec![3, 4], true), (vec![2, 4, 5], true)] {
        let mut view = view(1, &joint, long_lease(), None);
        renewed(&mut view, 1000);
        for from in &promised {
            heard(&mut view, 1010, *from, promise(1, 1000));
        }
        assert_eq!(view.lease_live(&name()), enough, "{promised:?}");
    }
}

#[test]
fn s1_stamp_carries_the_lease_on_for_that_process_only() {
    let stamp =
        |epoch, run: &str, until| Some(Stamp::Leased { epoch: Epoch(epoch), run_id: run.into(), until: ms(until) });
    for (stamp, live) in [
        (stamp(1, "run1", 1500), true),
        (stamp(1, "run9", 1500), false),
        (stamp(2, "run1", 1500), false),
        (stamp(1, "run1", 900), false),
        (Some(Stamp::Surrendered { epoch: Epoch(1) }), false),
        (None, false),
    ] {
        let view = view(1, &state(3), long_lease(), stamp.clone());
        assert_eq!(view.lease_live(&name()), live, "{stamp:?}");
        assert!(view.seats[&name()].lease.held, "it held it before: it fences");
    }
    // A stamp of another boot's clock does not reach beyond one lease.
    let far = view(1, &state(3), long_lease(), stamp(1, "run1", 900_000));
    assert_eq!(far.lease_end(&name()), Some(ms(1800)));
}

#[test]
fn s2_the_surrender_mark_is_final() {
    let mut view = view(1, &state(3), long_lease(), Some(Stamp::Surrendered { epoch: Epoch(1) }));
    renewed(&mut view, 1000);
    heard(&mut view, 1010, 2, promise(1, 1000));
    heard(&mut view, 1010, 3, promise(1, 1000));
    assert!(!view.lease_live(&name()), "late promises revive nothing");
    let mut next = sealing(3);
    apply(&mut next, promotion(1, 150));
    applied(&mut view, 1100, &next);
    at(&mut view, 1100, What::Decided(Noted { renewals: vec![(name(), Epoch(2))], ..Noted::default() }));
    heard(&mut view, 1110, 2, promise(2, 1100));
    assert!(view.lease_live(&name()), "only a new epoch serves");
}

#[test]
fn s2_a_promise_holds_for_the_whole_duration() {
    let mut view = view(2, &state(3), Local::default(), None);
    heard(&mut view, 2000, 1, Item::Renew(renewal(1, 1)));
    assert_eq!(view.local.longest_lease, LEASE, "recorded before it is answered");
    applied(&mut view, 2100, &sealing(3));
    tick(&mut view, 2800);
    assert_eq!(sealed_for(&view), Epoch(2), "and not a moment longer");
    for before in [2100, 2799] {
        let mut view = self::view(2, &state(3), Local::default(), None);
        heard(&mut view, 2000, 1, Item::Renew(renewal(1, 1)));
        applied(&mut view, 2100, &sealing(3));
        tick(&mut view, before);
        assert_eq!(sealed_for(&view), Epoch(0), "{before}");
    }
}

#[test]
fn s2_a_surrender_frees_the_guardian() {
    for (from, epoch, freed) in [(1, 1, true), (3, 1, false), (1, 2, false), (1, 0, false)] {
        let mut view = view(2, &state(3), Local::default(), None);
        heard(&mut view, 2000, 1, Item::Renew(renewal(1, 1)));
        let item = Item::Surrender { group: name(), epoch: Epoch(epoch), why: Why::Operator };
        heard(&mut view, 2001, from, item);
        applied(&mut view, 2002, &sealing(3));
        assert_eq!(sealed_for(&view) == Epoch(2), freed, "from {from} for {epoch}");
    }
}

#[test]
fn s2_restarted_it_keeps_silent_for_the_longest_lease() {
    for (longest, time, sealed) in [(800, 1799, 0), (800, 1800, 2), (5000, 5999, 0), (5000, 6000, 2), (0, 1001, 2)] {
        let local = Local { longest_lease: Duration::from_millis(longest), ..Local::default() };
        let mut view = view(2, &sealing(3), local, None);
        tick(&mut view, time);
        assert_eq!(sealed_for(&view), Epoch(sealed), "{longest} at {time}");
    }
}

#[test]
fn s2_no_promise_below_a_seal() {
    let owed = |view: &View| view.seats[&name()].owed.len();
    let mut group = LocalGroup { guardian_sealed: Epoch(2), ..LocalGroup::default() };
    let local = |group: &LocalGroup| Local { longest_lease: LEASE, groups: [(name(), group.clone())].into() };
    let mut refused = view(2, &state(3), local(&group), None);
    heard(&mut refused, 3000, 1, Item::Renew(renewal(1, 1)));
    assert_eq!(owed(&refused), 0);
    group.guardian_sealed = Epoch(1);
    let mut given = view(2, &state(3), local(&group), None);
    heard(&mut given, 3000, 1, Item::Renew(renewal(1, 1)));
    assert_eq!(owed(&given), 1);
}

#[test]
fn s2_renewals_that_are_refused() {
    let owed = |view: &View| view.seats[&name()].owed.len();
    let long = Renewal { lease: Duration::from_secs(61), ..renewal(1, 1) };
    for (why, state, from, renewal, promised) in [
        ("sound", state(3), 1, renewal(1, 1), 1),
        ("from another node than the primary", state(3), 3, renewal(1, 1), 0),
        ("an epoch of before", state(3), 1, renewal(0, 1), 0),
        ("garbled", state(3), 1, long, 0),
        ("the epoch is being sealed", sealing(3), 1, renewal(1, 1), 0),
        ("a successor that this node has not applied yet", sealing(3), 3, renewal(2, 1), 1),
    ] {
        let mut view = view(2, &state, long_lease(), None);
        heard(&mut view, 1100, from, Item::Renew(renewal));
        assert_eq!(owed(&view), promised, "{why}");
    }
    // Once a later epoch is promised, none below it.
    let mut view = view(2, &sealing(3), long_lease(), None);
    heard(&mut view, 1100, 3, Item::Renew(renewal(2, 1)));
    heard(&mut view, 1101, 1, Item::Renew(renewal(1, 1)));
    assert_eq!(owed(&view), 1);
}

#[test]
fn s2_what_is_owed_is_dropped_by_the_seal() {
    let mut view = view(2, &state(3), Local::default(), None);
    heard(&mut view, 2000, 1, Item::Renew(renewal(1, 1)));
    applied(&mut view, 2001, &sealing(3));
    assert_eq!(view.seats[&name()].owed.len(), 1);
    tick(&mut view, 2800);
    assert!(view.seats[&name()].owed.is_empty());
}

#[test]
fn s5_nothing_is_followed_before_f_has_grown() {
    let run = |change: &dyn Fn(&mut State), run_id: u64, epoch: u64, served: bool, after: u64| {
        let mut state = state(3);
        change(&mut state);
        let mut view = view(2, &state, long_lease(), None);
        looked(&mut view, 1050, info(run_id, Some(NOWHERE), "id1", 150));
        let offered = if served { serving(300) } else { None };
        heard(&mut view, 1100, 1, Item::Renew(Renewal { serving: offered, ..renewal(epoch, 1) }));
        tick(&mut view, 1100 + after);
        view.follow_target(&name()).is_some()
    };
    let nothing = |_: &mut State| {};
    assert!(run(&nothing, 2, 1, true, 0));
    assert!(!run(&nothing, 9, 1, true, 0), "another process than was let in");
    assert!(!run(&nothing, 2, 1, false, 0), "it does not serve yet");
    assert!(run(&nothing, 2, 1, true, 799));
    assert!(!run(&nothing, 2, 1, true, 800), "S8: unheard for a lease");
    let drop = |state: &mut State| {
        let gone = leave::dropped(state, 2);
        apply(state, gone)
    };
    assert!(!run(&drop, 2, 1, true, 0), "not in F");
    let leaving = |state: &mut State| {
        let going = leave::first(state, 2);
        apply(state, going)
    };
    assert!(!run(&leaving, 2, 1, true, 0), "leaving F");
    let seal = |state: &mut State| apply(state, GroupCommand::Seal { why: Why::Operator });
    assert!(!run(&seal, 2, 1, true, 0), "being sealed");
}

#[test]
fn s7_conditions() {
    let seen = |view: &mut View, time, seen| at(view, time, What::Instance { group: name(), seen });
    let silent = |ms, progress| Sight::Silent { length: Duration::from_millis(ms), progress };
    let mut view = view(2, &state(3), long_lease(), None);
    let condition = |view: &View| view.seats[&name()].instance.condition.clone();
    seen(&mut view, 2000, silent(300, false));
    assert_eq!(condition(&view), Condition::Silent { still: Some(ms(1700)) });
    seen(&mut view, 2400, silent(700, false));
    assert_eq!(condition(&view), Condition::Silent { still: Some(ms(1700)) }, "patience counts from the first");
    seen(&mut view, 2600, silent(900, true));
    assert_eq!(condition(&view), Condition::Silent { still: None }, "it works");
    seen(&mut view, 2700, Sight::Busy);
    seen(&mut view, 2900, Sight::Busy);
    assert_eq!(condition(&view), Condition::Busy { since: ms(2700) });
    seen(&mut view, 3000, Sight::Loading);
    assert_eq!(condition(&view), Condition::Loading);
    looked(&mut view, 3100, info(2, Some(NOWHERE), "id1", 1));
    assert_eq!(condition(&view), Condition::Up);
    seen(&mut view, 3200, Sight::Gone);
    assert_eq!((condition(&view), view.seats[&name()].instance.run_id()), (Condition::Gone, None));
}

#[test]
fn the_log_and_the_clock_do_not_go_back() {
    let mut view = view(2, &sealing(3), long_lease(), None);
    applied(&mut view, 2000, &state(3));
    assert!(matches!(view.group(&name()).unwrap().phase, Phase::Sealing { .. }), "an older state is ignored");
    tick(&mut view, 1500);
    assert_eq!(view.now, ms(2000));
}

#[test]
fn s3_answers_count_for_the_poll_they_answer() {
    let mut view = view(2, &state(3), long_lease(), None);
    at(&mut view, 3000, What::Decided(Noted { polled: true, ..Noted::default() }));
    let vacant = |id| Item::Vacant { id, groups: vec![(name(), Epoch(1))] };
    let said = |view: &View| view.poll.as_ref().unwrap().vacant.values().map(BTreeSet::len).sum::<usize>();
    heard(&mut view, 3010, 3, vacant(9));
    assert_eq!(said(&view), 0);
    heard(&mut view, 3010, 3, vacant(1));
    heard(&mut view, 3011, 3, vacant(1));
    assert_eq!(said(&view), 1);
    at(&mut view, 3100, What::Decided(Noted { polled: true, ..Noted::default() }));
    heard(&mut view, 3110, 1, vacant(1));
    assert_eq!(said(&view), 0, "an answer to the poll before");
    at(&mut view, 3120, What::Leadership(Leadership { leading: true, ..Leadership::default() }));
    assert!(view.poll.is_none(), "a new leader asks anew");
}

#[test]
fn what_was_accepted_is_not_proposed_again_before_it_is_applied() {
    let topic = || Topic::Own(name());
    let free_at = |view: &View| view.proposed[&topic()];
    let begin = |view: &mut View| {
        at(view, 2000, What::Decided(Noted { topics: vec![topic()], ..Noted::default() }));
        assert!(free_at(view) > ms(10_000));
    };
    let answer = |view: &mut View, time, accepted| at(view, time, What::Proposed { topic: topic(), accepted });
    let mut first = view(2, &state(3), long_lease(), None);
    begin(&mut first);
    answer(&mut first, 2010, true);
    assert!(free_at(&first) > ms(2010));
    applied(&mut first, 2020, &sealing(3));
    assert!(free_at(&first) <= ms(2020));
    let mut second = view(2, &state(3), long_lease(), None);
    begin(&mut second);
    applied(&mut second, 2005, &sealing(3));
    assert!(free_at(&second) > ms(10_000), "still under way");
    answer(&mut second, 2010, true);
    assert!(free_at(&second) <= ms(2010), "applied already");
    let mut third = view(2, &state(3), long_lease(), None);
    begin(&mut third);
    answer(&mut third, 2010, false);
    assert_eq!(free_at(&third), ms(2110), "refused: not at once again");
}

/// An announcement of the former holder that comes late, or its kernel's answer within its leash, is no fault.
#[test]
fn the_former_holder_of_the_vip_is_no_conflict() {
    let mut view = view(1, &state(3), Local::default(), None);
    let mut vip = |when: u64, seen: VipSight| {
        at(&mut view, when, What::Vip { group: name(), seen });
        view.seats[&name()].vip.wrong(ms(when))
    };
    let claim = || VipSight::Conflict { mac: "02:00:00:00:00:03".to_owned() };
    assert_eq!(vip(2000, VipSight::Held), None);
    assert_eq!(vip(2001, claim()), None, "on its way when the VIP moved");
    assert_eq!(vip(5700, VipSight::Held), None, "refreshed, it is here since 2 s");
    assert_eq!(vip(5799, claim()), None, "a frozen agent's kernel");
    assert!(vip(5800, claim()).is_some_and(|words| words.contains("02:00:00:00:00:03")));
    assert_eq!(vip(5900, VipSight::Removed), None);
    assert_eq!(vip(9900, VipSight::Held), None);
    assert_eq!(vip(9901, claim()), None, "here anew");
    assert!(vip(20_000, claim()).is_some(), "whoever has it now");
    // A fence took it off, which nothing of the kernel's need tell.
    view.seats.get_mut(&name()).expect("a seat").vip.held = false;
    at(&mut view, 21_000, What::Vip { group: name(), seen: VipSight::Held });
    assert_eq!(view.seats[&name()].vip.wrong(ms(21_000)), None, "what was said of its last stay");
}
