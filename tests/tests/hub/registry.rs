//! Names of published dictionaries: where those of the built-in table lead, and tables made anew.

use lm_saes::hub::{Hub, OpenOptions, Registry, resolve};
use std::{fs, io::Write, path::Path, rc::Rc};

#[test]
fn names_of_the_registry_lead_where_the_reference_system_goes() {
    let hub = Rc::new(Hub::new("http://127.0.0.1:9", Path::new("/nonexistent"), None, true));
    let place = |name: &str| resolve(&hub, name, &OpenOptions::default()).unwrap();
    let gemma = place("gemma-scope-2-1b-pt-res-all:layer_12_width_16k_l0_small");
    assert_eq!(gemma.text, "google/gemma-scope-2-1b-pt:resid_post_all/layer_12_width_16k_l0_small");
    assert_eq!(gemma.facts.loader.as_deref(), Some("gemma_3"));
    let hooks = lm_saes::hub::readers::hooks(&gemma).unwrap();
    assert_eq!(hooks.0, "blocks.12.hook_resid_post");
    let canonical = place("gemma-scope-2b-pt-att-canonical:layer_0/width_16k/canonical");
    assert_eq!(canonical.text, "google/gemma-scope-2b-pt-att:layer_0/width_16k/average_l0_104");
    assert_eq!(lm_saes::hub::readers::hooks(&canonical).unwrap().0, "blocks.0.attn.hook_z");
    let transcoder = place("gemma-scope-2-4b-pt-transcoders-all:layer_0_width_16k_l0_big");
    let hooks = lm_saes::hub::readers::hooks(&transcoder).unwrap();
    assert_eq!(hooks, ("blocks.0.mlp.hook_in".to_string(), "blocks.0.hook_mlp_out".to_string()));
    let llama = place("llama_scope_lxr_8x:l0r_8x");
    assert_eq!(
        (llama.facts.loader.as_deref(), llama.facts.norm_scaling_factor),
        (Some("llama_scope"), Some(58.935251798561154))
    );
    let mistral = place("mistral-7b-res-wg:blocks.8.hook_resid_pre");
    assert_eq!(mistral.facts.normalize_activations.as_deref(), Some("constant_norm_rescale"));
    let registry = Registry::built_in().unwrap();
    // Every release leads somewhere, to a reader that is known, and where only the name says the hook points it does.
    for (release, found) in registry.releases() {
        for id in [found.entries.keys().next(), found.entries.keys().last()].into_iter().flatten() {
            let place = place(&format!("{release}:{id}"));
            let loader = place.facts.loader.clone().unwrap();
            assert!(place.text.starts_with(&format!("{}:", found.repo)), "{release}:{id}");
            let by_name =
                ["gemma_2", "gemma_2_transcoder", "gemma_3", "qwen_scope", "goodfire", "deepseek_r1"];
            if by_name.contains(&loader.as_str()) {
                let hooks = lm_saes::hub::readers::hooks(&place);
                assert!(hooks.is_some_and(|h| h.0.contains("hook_")), "{release}:{id} by {loader}");
            }
            let e = lm_saes::hub::readers::read(&place).err().unwrap().to_string();
            assert!(!e.contains("not known here"), "{release}:{id}: {e}");
        }
    }
    assert!(registry.releases().len() >= 170);
    assert!(registry.releases().values().map(|r| r.entries.len()).sum::<usize>() >= 13_000);
}

#[test]
fn a_wheel_of_saelens_its_yaml_and_the_table_made_of_them_say_the_same() {
    let yaml = "new-release:\n  repo_id: org/new\n  model: org/model\n  conversion_func: gemma_3\n  saes:\n  - {id: a, path: x/a, l0: 7.5}\n";
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("saes.yaml"), yaml).unwrap();
    let mut wheel = zip::ZipWriter::new(fs::File::create(path("sae_lens.whl")).unwrap());
    wheel.start_file("sae_lens/pretrained_saes.yaml", zip::write::SimpleFileOptions::default()).unwrap();
    wheel.write_all(yaml.as_bytes()).unwrap();
    wheel.finish().unwrap();
    let registry = Registry::open(&path("sae_lens.whl")).unwrap();
    registry.save(&path("table.tsv.gz")).unwrap();
    for name in ["saes.yaml", "table.tsv.gz"] {
        assert_eq!(Registry::open(&path(name)).unwrap(), registry, "{name}");
    }
    let (release, entry) = registry.find("new-release", "a").unwrap().unwrap();
    assert_eq!((release.repo.as_str(), entry.path.as_str(), entry.l0), ("org/new", "x/a", Some(7.5)));

    let mut other = zip::ZipWriter::new(fs::File::create(path("other.whl")).unwrap());
    other.start_file("numpy/version.py", zip::write::SimpleFileOptions::default()).unwrap();
    other.finish().unwrap();
    fs::write(path("half.gz"), &fs::read(path("table.tsv.gz")).unwrap()[..60]).unwrap();
    fs::write(path("empty.yaml"), "{}").unwrap();
    for name in ["other.whl", "half.gz", "empty.yaml"] {
        let e = Registry::open(&path(name)).unwrap_err().to_string();
        assert!(e.contains(name), "{e}");
    }
}
