//! One compiler at a time, room made for the new, nothing lost that is in use.

use std::fs;
use std::time::{Duration, SystemTime};

use super::*;
use crate::engine::EngineSettings;

struct Lab {
    scratch: tempfile::TempDir,
    engine: Engine,
}

impl Lab {
    fn new() -> Self {
        let engine = Engine::new(&EngineSettings::default()).unwrap();
        Self { scratch: tempfile::tempdir().unwrap(), engine }
    }

    fn folder(&self) -> PathBuf {
        self.scratch.path().join("cache")
    }

    fn cache(&self, size: u64) -> Cache {
        Cache::new(&self.folder(), size)
    }

    /// Stores an entry of a little over 1000 bytes, which was last used so many seconds ago. It is
    /// in use for as long as what is returned.
    fn store(&self, cache: &Cache, module: &str, age: u64) -> Artifact {
        let Turn::Yours(place) = cache.await_turn(&self.engine, &digest(module)).unwrap() else {
            panic!("{module} is there already");
        };
        let artifact = place.fill(&[7; 1000]).unwrap();
        let used = SystemTime::now() - Duration::from_secs(age);
        let entry = fs::File::open(self.folder().join(name_of(&self.engine, &digest(module))));
        entry.unwrap().set_modified(used).unwrap();
        artifact
    }

    fn has(&self, module: &str) -> bool {
        self.folder().join(name_of(&self.engine, &digest(module))).exists()
    }
}

fn digest(module: &str) -> Digest {
    Digest::of(module.as_bytes())
}

#[test]
fn the_least_recently_used_entries_make_room() {
    let lab = Lab::new();
    let cache = lab.cache(3500);
    for (module, age) in [("a", 30), ("b", 20), ("c", 10)] {
        drop(lab.store(&cache, module, age));
    }
    assert!(lab.has("a") && lab.has("b") && lab.has("c"), "as many as fit");
    let found = cache.find(&lab.engine, &digest("a")).unwrap();
    assert!(matches!(found, Found::Intact(_)), "{found:?}");
    drop(found);
    drop(lab.store(&cache, "d", 0));
    assert!(lab.has("a"), "it was used a moment ago");
    assert!(!lab.has("b"), "it was not used for longest");
    assert!(lab.has("c") && lab.has("d"));
}

#[test]
fn what_is_in_use_stays_however_old() {
    let lab = Lab::new();
    let cache = lab.cache(1500);
    let in_use = lab.store(&cache, "a", 1000);
    drop(lab.store(&cache, "b", 10));
    drop(lab.store(&cache, "c", 0));
    assert!(lab.has("a"), "somebody has it");
    assert!(!lab.has("b") && lab.has("c"), "what was just stored is in use as well");
    drop(in_use);
    drop(lab.store(&cache, "d", 0));
    assert!(!lab.has("a") && !lab.has("c") && lab.has("d"));
}

#[test]
fn entries_of_other_engines_go_in_their_turn() {
    let lab = Lab::new();
    let cache = lab.cache(2500);
    drop(lab.store(&cache, "a", 10));
    let stranger = lab.folder().join(format!("{}-0123456789abcdef.cwasm", digest("a").hex()));
    fs::write(&stranger, [0; 1000]).unwrap();
    fs::File::open(&stranger)
        .unwrap()
        .set_modified(SystemTime::now() - Duration::from_secs(20))
        .unwrap();
    drop(lab.store(&cache, "b", 0));
    assert!(!stranger.exists() && lab.has("a") && lab.has("b"));
}

#[test]
fn what_killed_compilers_left_is_removed_and_what_living_ones_write_is_not() {
    let lab = Lab::new();
    let cache = lab.cache(u64::MAX);
    drop(lab.store(&cache, "a", 0));
    let leftover_of = |module: &str| {
        let name = format!(".{}.4711.tmp", name_of(&lab.engine, &digest(module)));
        let path = lab.folder().join(name);
        fs::write(&path, "half").unwrap();
        path
    };
    let (of_b, of_c, of_d) = (leftover_of("b"), leftover_of("c"), leftover_of("d"));
    let Turn::Yours(_compiling_d) = cache.await_turn(&lab.engine, &digest("d")).unwrap() else {
        panic!("nobody has compiled it");
    };
    drop(lab.store(&cache, "b", 0));
    assert!(!of_b.exists() && !of_c.exists(), "nobody writes these");
    assert!(of_d.exists(), "somebody may");
}

#[test]
fn of_many_compilers_of_one_module_one_compiles() {
    let lab = Lab::new();
    let cache = lab.cache(u64::MAX);
    let compiled = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match cache.await_turn(&lab.engine, &digest("a")).unwrap() {
                Turn::Done(_) => {}
                Turn::Yours(place) => {
                    compiled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                    drop(place.fill(&[7; 1000]).unwrap());
                }
            });
        }
    });
    assert_eq!(compiled.into_inner(), 1);
}

#[test]
fn a_turn_that_is_given_up_goes_to_the_next() {
    let lab = Lab::new();
    let cache = lab.cache(u64::MAX);
    let given_up = cache.await_turn(&lab.engine, &digest("a")).unwrap();
    assert!(matches!(given_up, Turn::Yours(_)));
    drop(given_up);
    drop(lab.store(&cache, "a", 0));
    let again = cache.await_turn(&lab.engine, &digest("a")).unwrap();
    assert!(matches!(again, Turn::Done(_)), "{again:?}");
}

#[test]
fn only_what_this_program_writes_is_taken_for_half_written() {
    for (name, meant_for) in [
        (".a.cwasm.12.tmp", Some("a.cwasm")),
        (".seal.key.1.tmp", Some("seal.key")),
        ("a.cwasm.12.tmp", None),
        (".a.cwasm.tmp", None),
        (".tmp", None),
        ("seal.key", None),
    ] {
        assert_eq!(folder::written_for(name), meant_for, "{name}");
    }
}
