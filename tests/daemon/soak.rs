//! A long time in the life of two daemons: servers fail and come back, processes are killed, people pause, resume and reload,
//! and rows are written throughout. At its end both sides are alike. `PGDIODE_SEED` repeats a run.

use serde_json::json;

use crate::harness::ground::{self, free_port};
use crate::harness::http::Http;
use crate::harness::{Cluster, PgdiodeRun, Rng, Running, Version, wait_for};

const PIPELINES: [&str; 3] = ["a", "b", "c"];
const STEPS: usize = 24;

const TABLES: &str = "
    create table entry (id bigserial primary key, v text not null);
    create table counter (id int primary key, n int not null);
    insert into counter select n, 0 from generate_series(1, 5) n;
    insert into entry (v) select 'old' from generate_series(1, 200)";

/// Each is seen if it is lost or applied twice.
const WORK: &str = "
    insert into entry (v) select 'new' from generate_series(1, 20);
    update counter set n = n + 1; update entry set v = v || 'x' where id % 7 = 3;
    delete from entry where id = (select min(id) from entry)";

struct Soak {
    /// One for `a`, one for `b` and `c`.
    sources: [Cluster; 2],
    target: Cluster,
    run: PgdiodeRun,
    ports: [u16; 2],
    daemons: [Running; 2],
    rng: Rng,
    /// Whether source, source, target are there.
    is_up: [bool; 3],
    paused: [bool; 3],
    reloads: u64,
    done: Vec<String>,
}

impl Soak {
    fn new(rng: Rng) -> Soak {
        let sources = [(); 2].map(|()| Cluster::start(Version::V15, &[("wal_level", "logical")]));
        let target = Cluster::start(Version::V15, &[]);
        for name in PIPELINES {
            source_of(&sources, name).psql("postgres", &format!("create database {name}"));
            source_of(&sources, name).psql(name, TABLES);
            target.psql("postgres", &format!("create database {name}"));
        }
        let ports = [free_port(), free_port()];
        let run = PgdiodeRun::new(&config(&sources, &target, 0));
        for name in PIPELINES {
            run.run(&["setup", "--yes", "--pipeline", name]).success();
        }
        let daemons = ports.map(|port| start(&run, port));
        let (is_up, paused) = ([true; 3], [false; 3]);
        Soak { sources, target, run, ports, daemons, rng, is_up, paused, reloads: 0, done: Vec::new() }
    }

    fn server(&self, number: usize) -> &Cluster {
        self.sources.get(number).unwrap_or(&self.target)
    }

    fn work(&self) {
        for name in PIPELINES {
            if self.is_up[usize::from(name != "a")] {
                source_of(&self.sources, name).psql(name, WORK);
            }
        }
    }

    fn step(&mut self) {
        let which = self.rng.usize(..3);
        match self.rng.usize(..6) {
            0 | 1 if self.is_up[which] => self.stop_server(which),
            0 | 1 => self.start_server(which),
            2 => self.kill_sessions(which),
            3 => self.replace_a_daemon(),
            4 => self.reload(),
            _ => self.pause_or_resume(which),
        }
        self.work();
    }

    fn stop_server(&mut self, which: usize) {
        if self.rng.usize(..2) == 0 {
            self.server(which).stop_fast();
        } else {
            self.server(which).kill9();
        }
        self.is_up[which] = false;
        self.done.push(format!("server {which} stops"));
    }

    fn start_server(&mut self, which: usize) {
        self.server(which).start_again();
        self.is_up[which] = true;
        self.done.push(format!("server {which} is back"));
    }

    fn kill_sessions(&mut self, which: usize) {
        if self.is_up[which] {
            let sql =
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where pid <> pg_backend_pid()
                          and backend_type in ('client backend', 'walsender')";
            self.server(which).psql("postgres", sql);
            self.done.push(format!("sessions of server {which} are killed"));
        }
    }

    /// Killed or ended, and started again: the other one takes over, or does not notice.
    fn replace_a_daemon(&mut self) {
        let which = self.rng.usize(..2);
        if self.rng.usize(..2) == 0 {
            self.daemons[which].kill9();
        } else {
            self.daemons[which].terminate();
            self.daemons[which].wait();
        }
        self.daemons[which] = start(&self.run, self.ports[which]);
        self.done.push(format!("daemon {which} is replaced"));
    }

    fn reload(&mut self) {
        self.reloads += 1;
        std::fs::write(self.run.config_path(), config(&self.sources, &self.target, self.reloads)).unwrap();
        for daemon in &self.daemons {
            ground::signal("HUP", &[daemon.pid()]);
        }
        self.done.push("the configuration is read again".into());
    }

    /// By the API of either; while the target is away it is refused.
    fn pause_or_resume(&mut self, which: usize) {
        let verb = if self.paused[which] { "resume" } else { "pause" };
        let path = format!("/api/v1/pipelines/{}/{verb}", PIPELINES[which]);
        let http = Http::new(self.ports[self.rng.usize(..2)]);
        let headers = [("content-type", "application/json")];
        let body = json!({ "reason": "soak" }).to_string();
        let answer = wait_for(|| http.try_send("POST", &path, &headers, &body).ok()).expect("it answers");
        self.done.push(format!("{verb} of {}: {}", PIPELINES[which], answer.status));
        let is_done = answer.status == 200;
        assert_eq!(is_done, self.is_up[2], "{}\n{:?}", answer.body, self.done);
        self.paused[which] ^= is_done;
    }

    fn mend(&mut self) {
        for which in 0..3 {
            if !self.is_up[which] {
                self.start_server(which);
            }
        }
        for name in PIPELINES {
            // Whether a request was heard that was answered with an error is not known.
            self.run.run(&["resume", "--pipeline", name]).success();
        }
        self.work();
    }

    /// What was written last is there, and everything else as it is at the source.
    fn assert_alike(&mut self) {
        for name in PIPELINES {
            let marker = format!("marker {}", self.rng.u32(..));
            let insert = format!("insert into entry (v) values ('{marker}')");
            source_of(&self.sources, name).psql(name, &insert);
            let arrives = format!("select exists (select from entry where v = '{marker}')");
            let is_there =
                wait_for(|| (self.target.try_psql(name, &arrives).ok()?.trim() == "t").then_some(()));
            assert!(is_there.is_some(), "{name} does not recover: {:?}\n{}", self.done, self.log());
            // The first copy may be under way still: that is no difference.
            let compared = wait_for(|| {
                let said = self.run.run(&["verify", "--pipeline", name]);
                matches!(said.status.code(), Some(0 | 4)).then_some(said)
            });
            let said = compared.unwrap_or_else(|| panic!("{name}: {:?}\n{}", self.done, self.log()));
            assert!(said.status.success(), "{name}: {}{}\n{:?}", said.stdout, said.stderr, self.done);
        }
    }

    fn log(&self) -> String {
        self.daemons.iter().map(Running::stderr).collect::<Vec<_>>().join("\n---- the other one\n")
    }
}

fn source_of<'a>(sources: &'a [Cluster; 2], name: &str) -> &'a Cluster {
    &sources[usize::from(name != "a")]
}

fn start(run: &PgdiodeRun, port: u16) -> Running {
    let started = wait_for(|| {
        let mut daemon = run.spawn(&["start", "--listen", &format!("127.0.0.1:{port}")]);
        // Before that it does not know the signals yet. Another test process may have tried the port for a moment.
        let is_open = || daemon.stderr().contains("console, API and metrics");
        wait_for(|| (is_open() || daemon.stderr().contains("cannot listen on")).then_some(()))?;
        let is_open = is_open();
        if !is_open {
            daemon.wait();
        }
        is_open.then_some(daemon)
    });
    started.expect("a daemon opens its door")
}

/// The same but for a number that makes the pipeline `b` another one.
fn config(sources: &[Cluster; 2], target: &Cluster, number: u64) -> String {
    let each = PIPELINES.map(|name| {
        let memory = if name == "b" { 256 + number } else { 256 };
        format!(
            "[pipeline.{name}]\nsource = \"{}\"\ntarget = \"{}\"\ntables = [\"public.*\"]\n\
             retry = {{ first_ms = 50, max_ms = 1000 }}\nlimits.wal_budget_mb = {memory}\n",
            source_of(sources, name).conninfo(name),
            target.conninfo(name)
        )
    });
    each.concat()
}

#[test]
fn whatever_fails_and_comes_back_both_sides_are_alike_in_the_end() {
    let rng = Rng::from_environment_or(6);
    println!("PGDIODE_SEED={}", rng.seed());
    let mut soak = Soak::new(rng);
    for round in 0..2 {
        for _ in 0..STEPS / 2 {
            soak.step();
        }
        soak.mend();
        soak.assert_alike();
        soak.paused = [false; 3];
        println!("round {round}: {:?}", soak.done);
    }
}
