//! `lm-saes evaluate`: a saved dictionary on text, with the language model's loss.

use super::train::{evaluation_json, load_settings, report_evaluation};
use crate::{
    args::Evaluate,
    ranks::{self, Ranks},
};
use anyhow::{Result, bail};
use lm_saes::{
    runners,
    settings::{self, EvaluateSettings},
};
use lm_saes_runtime::Registry;

pub fn run(args: &Evaluate, registry: &Registry, ranks: Option<&Ranks>) -> Result<()> {
    let tree = settings::read_tree(&args.settings.file)?;
    if let Some(out) = tree.pointer("/trainer/exp_result_path").or(tree.get("trainer")) {
        let folder = out.as_str().unwrap_or("results");
        bail!(
            "{} is for training. To evaluate what it trains, leave out [initializer], [trainer] and eval, and let [sae] be \
             pretrained_name_or_path = {folder:?}",
            args.settings.file.display()
        );
    }
    let mut settings: EvaluateSettings = load_settings(&args.settings)?;
    if let Some(device) = &args.settings.overrides.device {
        settings.device_type.clone_from(device);
    }
    settings.device_type = ranks::device(ranks, &settings.device_type);
    let (world, mut observer) = ranks::joined(ranks, &settings.device_type, registry)?;
    let ((quality, downstream), stated) = runners::evaluate_with(&settings, registry, &mut *observer, world)?;
    if !ranks::speaks(ranks) {
        return Ok(());
    }
    if args.settings.json {
        println!("{:#}", evaluation_json(&quality, &downstream));
    } else {
        report_evaluation(&quality, &downstream);
    }
    if args.check {
        match stated.compare(&quality) {
            None => bail!(
                "--check: the dictionary's record states neither L0 nor explained variance; what is trained with eval = true states \
                 both"
            ),
            Some(off) if !off.is_empty() => bail!(
                "--check: {}; the model, the hook point or the scaling of activations may not be those it was trained with",
                off.join("; ")
            ),
            Some(_) => eprintln!("L0 and explained variance are near what its record states"),
        }
    }
    Ok(())
}
