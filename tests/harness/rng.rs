//! Chance that can be had again: the seed is printed when a test fails, and `PGDIODE_SEED` sets it.

use std::ops::{Deref, DerefMut};

pub struct Rng {
    seed: u64,
    generator: fastrand::Rng,
}

impl Rng {
    /// From `PGDIODE_SEED`, else by chance.
    pub fn from_environment() -> Rng {
        Rng::from_environment_or(fastrand::u64(..))
    }

    /// The same where nothing else is said: a gate is to judge the change before it, not the luck of the day. Chance
    /// explores in `make chaos`.
    pub fn from_environment_or(seed: u64) -> Rng {
        let seed = match std::env::var("PGDIODE_SEED") {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("PGDIODE_SEED={text} is not a number")),
            Err(_) => seed,
        };
        Rng::with_seed(seed)
    }

    pub fn with_seed(seed: u64) -> Rng {
        Rng { seed, generator: fastrand::Rng::with_seed(seed) }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl Deref for Rng {
    type Target = fastrand::Rng;
    fn deref(&self) -> &fastrand::Rng {
        &self.generator
    }
}

impl DerefMut for Rng {
    fn deref_mut(&mut self) -> &mut fastrand::Rng {
        &mut self.generator
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- run it again with PGDIODE_SEED={} ---", self.seed);
        }
    }
}
