//! SIGKILL of pgdiode and of either server in every phase of a sync. Each phase is held from inside, by what runs at the
//! target in that phase and waits while a role `hold_PHASE` is there; so each victim dies at a known step.

use super::*;

/// What is held where: in the order of a run. A source that dies is missed by the phases that still read it.
const PHASES: [Phase; 7] = [
    Phase { name: "exporting", needs_source: Some(true), has_swapped: false },
    Phase { name: "copying", needs_source: Some(true), has_swapped: false },
    Phase { name: "refreshing", needs_source: Some(true), has_swapped: false },
    Phase { name: "analyzing", needs_source: None, has_swapped: false },
    Phase { name: "checking", needs_source: Some(false), has_swapped: false },
    Phase { name: "swapping", needs_source: Some(false), has_swapped: false },
    Phase { name: "tidying", needs_source: Some(false), has_swapped: true },
];

struct Phase {
    name: &'static str,
    /// `None`: it reads the source beside what is held, and may be done with it.
    needs_source: Option<bool>,
    has_swapped: bool,
}

const CONFIG: &str = "snapshot.keep = 0\nsnapshot.checks = [\"select public.wait('checking', 1)\"]";

/// What a copy calls. An index is built with its expression in the copy already: only the statistics are to wait. The
/// function that waits is volatile, or it would never see that the role has gone.
const AT_THE_SOURCE: &str = "
    create function wait(phase text, id int) returns bool language plpgsql as $$ begin
        while current_database() like '%shadow%' and exists (select from pg_roles where rolname = 'hold_' || phase)
          and (phase <> 'analyzing' or current_query() ilike 'analyze%') loop
            perform pg_sleep(0.02);
        end loop;
        return true;
    end $$;
    create function waited(id int) returns bool immutable language plpgsql as $$ begin
        return public.wait('analyzing', id);
    end $$;
    create table held (id int check (public.wait('copying', id)));
    insert into held values (1);
    create index on held (public.waited(id));
    create materialized view slow as select public.wait('refreshing', 1)";

/// What the control database calls: when the shadow is noted, between the renames and their commit, when a generation
/// that was dropped is noted.
const AT_THE_CONTROL: &str = "
    create function wait() returns trigger language plpgsql as $$ begin
        while exists (select from pg_roles where rolname = 'hold_' || tg_argv[0]) loop
            perform pg_sleep(0.02);
        end loop;
        return new;
    end $$;
    create trigger exporting before update on pgdiode.run for each row
        when (old.shadow is null and new.shadow is not null) execute function wait('exporting');
    create trigger swapping before insert on pgdiode.generation for each row
        when (new.state = 'serving') execute function wait('swapping');
    create trigger tidying before update on pgdiode.generation for each row
        when (new.state = 'dropped') execute function wait('tidying')";

/// A replica at edition 1, and everything that can be held.
fn holdable() -> (Ground, PgdiodeRun) {
    let ground = Ground::new();
    ground.source.psql("app", AT_THE_SOURCE);
    let pgdiode = ground.pgdiode(CONFIG);
    sync(&pgdiode).success();
    ground.control(AT_THE_CONTROL);
    (ground, pgdiode)
}

impl Ground {
    fn publish(&self, edition: usize) {
        self.source.psql("app", &format!("update stamp set generation = {edition}"));
    }

    /// A sync that waits in the phase.
    fn held_in(&self, pgdiode: &PgdiodeRun, phase: &str) -> Running {
        self.target.psql("postgres", &format!("create role hold_{phase}"));
        let mut running = pgdiode.spawn(&["sync"]);
        let waits = "select exists (select from pg_stat_activity where wait_event = 'PgSleep')";
        let held = crate::harness::wait_for(|| {
            let waits = self.target.try_psql("postgres", waits).is_ok_and(|answer| answer == "t");
            (waits || !running.is_running()).then_some(waits)
        });
        assert_eq!(held, Some(true), "{phase} was never held: {}", running.stderr());
        let told = self.control("select phase || ' ' || verdict from pgdiode.run order by id desc limit 1");
        let expected = if phase == "tidying" { "swapping done".into() } else { format!("{phase} running") };
        assert_eq!(told, expected);
        running
    }

    fn let_go(&self, phase: &str) {
        self.target.psql("postgres", &format!("drop role hold_{phase}"));
    }

    /// The edition that serves, which must be whole; a database that is just being renamed is asked again.
    fn serves(&self) -> usize {
        let read = "select (select min(generation) || ' ' || max(generation) || ' ' || count(*) from stamp)
            || ' ' || (select count(*) from item) || ' ' || (select items from totals) || ' ' || (select count(*) from held)";
        let answer =
            crate::harness::wait_for(|| self.target.try_psql("li", read).ok()).expect("the replica serves");
        let edition = answer.split(' ').next().unwrap().to_owned();
        assert_eq!(answer, format!("{edition} {edition} 1 1000 1000 1"), "a part of a copy");
        edition.parse().unwrap()
    }

    /// The next sync needs no help, and leaves nothing behind.
    fn recovers(&self, pgdiode: &PgdiodeRun, edition: usize, phase: &str) {
        sync(pgdiode).success();
        assert_eq!(self.serves(), edition, "after {phase}");
        assert_eq!(self.databases(), "li li_pgdiode", "after {phase}");
        assert_eq!(self.control("select count(*) from pgdiode.run where verdict = 'running'"), "0");
        let generations = self.control("select count(*) from pgdiode.generation where state <> 'dropped'");
        assert_eq!(generations, "1", "after {phase}");
    }
}

#[test]
fn pgdiode_may_be_killed_in_every_phase() {
    let (ground, pgdiode) = holdable();
    for (before, phase) in (1..).zip(&PHASES) {
        ground.publish(before + 1);
        let mut running = ground.held_in(&pgdiode, phase.name);
        running.kill9();
        ground.let_go(phase.name);
        let serves = ground.serves();
        match phase.name {
            // The server had the whole transaction already: it may commit without anybody waiting for it.
            "swapping" => assert!([before, before + 1].contains(&serves), "{serves}"),
            _ => assert_eq!(serves, before + usize::from(phase.has_swapped), "{}", phase.name),
        }
        ground.recovers(&pgdiode, before + 1, phase.name);
    }
}

#[test]
fn the_source_may_be_killed_in_every_phase() {
    let (ground, pgdiode) = holdable();
    for (before, phase) in (1..).zip(&PHASES) {
        ground.publish(before + 1);
        let mut running = ground.held_in(&pgdiode, phase.name);
        ground.source.kill9();
        ground.let_go(phase.name);
        let status = running.wait().code();
        let missed_it = phase.needs_source.unwrap_or(status == Some(6));
        assert_eq!(status, Some(if missed_it { 6 } else { 0 }), "{}: {}", phase.name, running.stderr());
        assert_eq!(ground.serves(), before + usize::from(!missed_it), "{}", phase.name);
        assert_eq!(ground.databases(), "li li_pgdiode", "it has cleared up itself: {}", phase.name);
        ground.source.start_again();
        ground.recovers(&pgdiode, before + 1, phase.name);
    }
}

#[test]
fn the_target_may_be_killed_in_every_phase() {
    let (ground, pgdiode) = holdable();
    for (before, phase) in (1..).zip(&PHASES) {
        ground.publish(before + 1);
        let mut running = ground.held_in(&pgdiode, phase.name);
        ground.target.kill9();
        let status = running.wait().code();
        // What has been swapped is a success, even if older copies are left to the next sync.
        assert_eq!(
            status,
            Some(if phase.has_swapped { 0 } else { 7 }),
            "{}: {}",
            phase.name,
            running.stderr()
        );
        ground.target.start_again();
        ground.let_go(phase.name);
        assert_eq!(ground.serves(), before + usize::from(phase.has_swapped), "{}", phase.name);
        ground.recovers(&pgdiode, before + 1, phase.name);
    }
}

/// Whoever it is, whenever it is.
#[test]
fn anything_may_be_killed_at_any_moment() {
    let (ground, pgdiode) = holdable();
    let mut rng = crate::harness::Rng::from_environment_or(1);
    for edition in 2..8 {
        ground.publish(edition);
        let mut running = pgdiode.spawn(&["sync"]);
        let wait = u64::try_from(rng.i32(0..1500)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        let victim = rng.i32(0..3);
        match victim {
            0 => drop(running.kill9()),
            1 => ground.source.kill9(),
            _ => ground.target.kill9(),
        }
        let status = running.wait().code();
        match victim {
            1 => ground.source.start_again(),
            2 => ground.target.start_again(),
            _ => {}
        }
        let serves = ground.serves();
        let whole =
            if status == Some(0) { serves == edition } else { [edition - 1, edition].contains(&serves) };
        assert!(whole, "{serves} after {wait} ms, victim {victim}, {status:?}");
        ground.recovers(&pgdiode, edition, &format!("{wait} ms, victim {victim}"));
    }
}
