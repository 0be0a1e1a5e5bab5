//! Dictionaries trained on known features find them: every form of dictionary on the world that fits it. The figures of full
//! runs are printed by the bench of the same name.

use lm_saes::dictionary::build;
use lm_saes_tests::{
    queue,
    synthetic::{
        self, Design, Feature, GROUPS, LAYERS, TRUE, World, active, attended, mean_max_cosine, random,
        recall, tell,
    },
};
use serde_json::{Value, json};

const ROWS: usize = 32 * 1024;

/// Far above a random decoder: at least half of the way from it to the truth on average, and a quarter of the features.
fn finds_much(closest: &[(f32, usize)], baseline: &[(f32, usize)]) -> bool {
    let (mean, random) = (mean_max_cosine(closest), mean_max_cosine(baseline));
    mean > random + (1.0 - random) / 2.0 && recall(closest) > recall(baseline) + 0.25
}

/// Trains a dictionary of the design, and again without a step; the first has to have found much, the other nothing.
fn assert_found(design: Design, own: Value, trainer: Value, steps: usize) {
    let q = &mut queue();
    let world = World::draw(design, ROWS);
    let drawn = random(q, &world).unwrap();
    let baseline = world.closest(&drawn, false);
    let before = synthetic::train(q, &world, &own, &trainer, 0).unwrap();
    let after = synthetic::train(q, &world, &own, &trainer, steps).unwrap();
    let closest = |features: &[Feature]| world.closest(features, false);
    let (before, found) = (closest(&before.features), closest(&after.features));
    let of = |c: &[(f32, usize)]| (recall(c), mean_max_cosine(c));
    println!(
        "{design:?} {own}: {:?}, random {:?}, untrained {:?}, L0 {:.2}, explained {:.3}",
        of(&found),
        of(&baseline),
        of(&before),
        after.l0,
        after.explained
    );
    assert!(finds_much(&found, &baseline), "{design:?}: {:?} beside {:?}", of(&found), of(&baseline));
    assert!(!finds_much(&before, &baseline), "{design:?}: before a step {:?}", of(&before));
}

fn top(act_fn: &str, k: usize) -> Value {
    json!({"act_fn": act_fn, "top_k": k})
}

#[test]
fn an_sae_finds_directions() {
    assert_found(Design::Sae, top("batchtopk", 5), json!({}), 500);
}

#[test]
fn a_transcoder_finds_what_is_written_for_what_it_reads() {
    assert_found(Design::Transcoder, top("batchtopk", 5), json!({}), 500);
}

#[test]
fn a_crosscoder_finds_the_directions_of_every_hook_point_and_where_features_do_not_live() {
    assert_found(Design::Crosscoder, top("topk", 4), json!({}), 500);
}

#[test]
fn a_cross_layer_transcoder_finds_what_features_write_to_later_layers() {
    assert_found(Design::Layers, top("layertopk", 5), json!({}), 500);
}

#[test]
fn a_mixture_of_transforms_finds_matrices() {
    // Nothing brings a transform back that no row selects, so k begins wide.
    let trainer = json!({"lr": 5e-3, "initial_k": 32, "k_warmup_steps": 0.5});
    assert_found(Design::Transforms, top("topk", 5), trainer, 500);
}

#[test]
fn lorsa_finds_what_attention_moves() {
    assert_found(Design::Attention, top("topk", 5), json!({}), 500);
}

#[test]
fn lorsa_finds_the_patterns_by_which_features_move() {
    let q = &mut queue();
    let world = World::draw(Design::Attention, ROWS);
    let mut overlaps = [0, 500].map(|steps| {
        let mut trained = synthetic::train(q, &world, &top("topk", 5), &json!({}), steps).unwrap();
        let closest = world.closest(&trained.features, false);
        attended(q, &world, &mut *trained.dictionary, &closest).unwrap().overlap
    });
    println!("{overlaps:?}");
    // Half of the way from what it starts with to the truth.
    overlaps[0] += (1.0 - overlaps[0]) / 2.0;
    assert!(overlaps[1] > overlaps[0], "{overlaps:?}");
}

#[test]
fn the_truth_itself_scores_one_half_of_it_a_half_and_a_random_decoder_nothing() {
    let q = &mut queue();
    for design in [
        Design::Sae,
        Design::Transcoder,
        Design::Crosscoder,
        Design::Layers,
        Design::Transforms,
        Design::Attention,
    ] {
        let world = World::draw(design, 16);
        let all = world.closest(&world.truth, false);
        assert!(recall(&all) == 1.0 && mean_max_cosine(&all) > 0.9999, "{design:?}");
        assert!(all.iter().enumerate().all(|(i, c)| c.1 == i), "{design:?}: features answer for others");
        let half = recall(&world.closest(&world.truth[..TRUE / 2], false));
        assert_eq!(half, 0.5, "{design:?}");
        let drawn = random(q, &world).unwrap();
        assert_eq!(drawn[0].vector.len(), world.truth[0].vector.len(), "{design:?}");
        assert_eq!(recall(&world.closest(&drawn, false)), 0.0, "{design:?}");
        // The sign counts, unless it is said not to.
        let turned = |f: &Feature| Feature { vector: f.vector.iter().map(|v| -v).collect(), ..f.clone() };
        let turned: Vec<Feature> = world.truth.iter().map(turned).collect();
        assert_eq!(recall(&world.closest(&turned, false)), 0.0, "{design:?}");
        assert_eq!(recall(&world.closest(&turned, true)), 1.0, "{design:?}");
    }
}

#[test]
fn features_are_correlated_hierarchical_and_somewhere_as_the_worlds_say() {
    let rows: Vec<Vec<usize>> = (0..20_000).map(|r| active(r).into_iter().map(|f| f.0).collect()).collect();
    let has = |row: &Vec<usize>, i: usize| row.contains(&i);
    let count = |of: &dyn Fn(&Vec<usize>) -> bool| rows.iter().filter(|r| of(r)).count() as f64;
    let [_, children, pairs, _] = GROUPS.map(|g| g.1);
    for child in children.clone() {
        let parent = (child - children.start) / 3;
        assert_eq!(count(&|r| has(r, child) && !has(r, parent)), 0.0, "{child} without {parent}");
        assert!(count(&|r| has(r, child)) > 200.0);
    }
    let first = |i: usize| pairs.start + 2 * i;
    let together: f64 = (0..16).map(|i| count(&|r| has(r, first(i)) && has(r, first(i) + 1))).sum();
    let either: f64 = (0..16).map(|i| count(&|r| has(r, first(i)))).sum();
    // The second follows the first one's chance four times in five, and else has its own of 0.03: 0.806.
    assert!((0.77..0.84).contains(&(together / either)), "{}", together / either);
    let norm = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>();
    let crosscoder = World::draw(Design::Crosscoder, 16);
    let layers = World::draw(Design::Layers, 16);
    let width = crosscoder.d;
    for i in 0..TRUE {
        let lives = |world: &World| -> Vec<bool> {
            world.truth[i].vector.chunks(width).map(|v| norm(v) > 0.5).collect()
        };
        assert_eq!(lives(&crosscoder), [i % 4 != 0, i % 4 != 1], "{i}");
        assert_eq!(lives(&layers), (0..LAYERS).map(|l| l >= i % LAYERS).collect::<Vec<_>>(), "{i}");
    }
}

#[test]
fn a_lorsa_that_is_told_the_true_attention_has_its_patterns_and_writes_what_the_world_does() {
    let q = &mut queue();
    let world = World::draw(Design::Attention, 1024);
    let own = json!({"act_fn": "topk", "top_k": 5, "norm_activation": "inference"});
    let settings = synthetic::settings(&world, &own);
    let mut d = build(q, &lm_saes::settings::from_tree(&settings).unwrap()).unwrap();
    let places = tell(q, &mut *d).unwrap();
    let closest = world.closest(&synthetic::features(q, &world, &*d).unwrap(), false);
    assert_eq!(closest.iter().map(|c| c.1).collect::<Vec<_>>(), places);
    let xs = [world.rows[0].clone()];
    let (_, made) = lm_saes_tests::apply(q, &mut *d, &xs, world.context).unwrap();
    let error: f32 = made[0].iter().zip(&world.rows[1]).map(|(a, b)| (a - b) * (a - b)).sum();
    let all: f32 = world.rows[1].iter().map(|b| b * b).sum();
    println!("error {error} of {all}");
    // Directions overlap, so some of what is read belongs to other features.
    assert!(error < 0.5 * all, "{error} {all}");
    let found = attended(q, &world, &mut *d, &closest).unwrap();
    assert!(found.overlap > 0.9999 && found.values > 0.9999, "{found:?}");
}
