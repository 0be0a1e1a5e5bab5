//! The committed PTX is what the committed sources were compiled to; no compiler is needed to see that.

use std::{collections::BTreeMap, fs, path::Path};

/// FNV-1a, as `kernels/cuda/compile` writes it.
fn hash(bytes: &[u8]) -> String {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", bytes.iter().fold(0xCBF2_9CE4_8422_2325, step))
}

fn hashes(folder: &Path, endings: &[&str]) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).expect("the folder is part of the repository");
    let paths = entries.map(|e| e.expect("a readable entry").path());
    let wanted = paths.filter(|p| endings.iter().any(|e| p.extension().is_some_and(|x| x == *e)));
    wanted
        .map(|p| {
            let name = p.file_name().expect("a file").to_string_lossy().into_owned();
            (name, hash(&fs::read(&p).expect("a readable file")))
        })
        .collect()
}

#[test]
fn ptx_and_sources_belong_together() {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let list = fs::read_to_string(cuda.join("ptx/SOURCES.txt")).expect("the list of hashes");
    let recorded: BTreeMap<String, String> = list
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once(' ').map(|(hash, name)| (name.to_string(), hash.to_string())))
        .collect();
    let mut found = hashes(&cuda, &["cu", "cuh"]);
    found.extend(hashes(&cuda.join("ptx"), &["ptx"]));
    assert_eq!(found, recorded, "sources or PTX changed since kernels/cuda/compile was run");
}

#[test]
fn every_module_is_embedded() {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let list = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda.rs")).expect("a file");
    for name in hashes(&cuda, &["cu"]).keys() {
        let module = format!("{:?}", name.trim_end_matches(".cu"));
        assert!(list.contains(&module), "src/cuda.rs does not embed {name}");
    }
}
