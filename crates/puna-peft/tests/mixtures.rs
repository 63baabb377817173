//! AdapterDrop, AdapterFusion and AdaMix.

use std::path::Path;
use std::sync::Arc;

use puna_model::Recompute;
use puna_nn::{AdapterSet, Branch};
use puna_peft::{PeftError, combine, drop_first_layers, load};
use serde_json::json;

use crate::support::{
    Batch, HIDDEN, LAYERS, adapted, base, build, check_gradients, check_training, clear,
    difference, fresh, gradient, logits, model, saved, scatter, set_of,
};

#[test]
fn dropped_blocks_have_no_adapters_at_inference_and_some_have_none_in_training() {
    let Some(model) = model() else { return };
    let recipe = json!({"method": "houlsby", "reduction_factor": 4.0, "drop_random": LAYERS});
    let method = fresh(&model, recipe);
    scatter(&*method);
    let mut set = combine(&[(&*method, 1.0)]).expect("one adapter");
    drop_first_layers(&mut set, 1);
    let mut left: Vec<_> = set.branches.keys().copied().collect();
    left.sort_unstable_by_key(|(layer, branch)| (*layer, *branch == Branch::Ffn));
    assert_eq!(left, [(1, Branch::Attention), (1, Branch::Ffn)]);
    drop_first_layers(&mut set, LAYERS);
    assert!(set.branches.is_empty());
    assert_eq!(logits(&model, Some(Arc::new(set))), {
        let nothing = Some(Arc::new(AdapterSet::default()));
        logits(&model, nothing)
    });
    // A dropped block's tensors have no gradient; blocks behind the first that is not have one.
    let (batch, whole) = (Batch::new(), set_of(&*method));
    let mut seen = [false; LAYERS + 1];
    for seed in 0..24 {
        clear(&*method);
        batch.train(&model, &whole, Recompute::Blocks, seed);
        let moved = |layer: usize| {
            let path = format!("model.layers.{layer}.");
            let of_layer = method.trained().into_iter();
            let of_layer = of_layer.filter(|t| t.parameter.name().starts_with(&path));
            let with: Vec<bool> = of_layer.map(|t| !gradient(&t.parameter).is_empty()).collect();
            assert!(with.iter().all(|&w| w == with[0]), "a block goes as a whole");
            with[0]
        };
        let dropped = (0..LAYERS).filter(|&layer| !moved(layer)).count();
        assert!((0..dropped).all(|layer| !moved(layer)), "the first blocks go");
        seen[dropped] = true;
    }
    assert_eq!(seen, [true; LAYERS + 1]);
}

#[test]
fn a_fusion_trains_attention_over_adapters_that_stay_as_they_are() {
    let Some(model) = model() else { return };
    let dirs = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let names = ["pfeiffer", "other"];
    for (index, (dir, name)) in dirs.iter().zip(names).enumerate() {
        let factor = 8.0 * (index + 1) as f64;
        let method = fresh(&model, json!({"method": "pfeiffer", "reduction_factor": factor}));
        scatter(&*method);
        saved(&*method, dir.path());
        let config = dir.path().join("adapter_config.json");
        let text = std::fs::read_to_string(&config).expect("a text");
        let text = text.replace("\"name\": \"pfeiffer\"", &format!("\"name\": \"{name}\""));
        std::fs::write(&config, text).expect("written");
        if name != "pfeiffer" {
            rename_adapter(dir.path(), "pfeiffer", name);
        }
    }
    let paths: Vec<&Path> = dirs.iter().map(tempfile::TempDir::path).collect();
    let fusion = fresh(&model, json!({"method": "fusion", "adapters": paths}));
    assert_eq!(fusion.size(), LAYERS * (3 * HIDDEN * HIDDEN + 2 * HIDDEN));
    // Keys of deviation 0.02 weigh all adapters nearly alike, and values are the identity: about the
    // mean of the two.
    let members: Vec<_> = paths.iter().map(|p| load(p, &base(&model)).expect("loaded")).collect();
    let mean = combine(&[(&*members[0], 0.5), (&*members[1], 0.5)]).expect("both");
    let one = adapted(&model, &*members[0]);
    let got = adapted(&model, &*fusion);
    let (near, far) =
        (difference(&got, &logits(&model, Some(Arc::new(mean)))), difference(&got, &one));
    assert!(near < 0.7 * far, "{near} {far}");
    assert!(fusion.regularize(1.0).expect("a term") < 1e-6);
    scatter(&*fusion);
    check_gradients("fusion", &model, &*fusion, None);
    let dir = tempfile::tempdir().expect("a folder");
    let before = adapted(&model, &*fusion);
    saved(&*fusion, dir.path());
    let loaded = load(dir.path(), &base(&model)).expect("loaded");
    assert_eq!(adapted(&model, &*loaded), before);
    check_training("fusion", &model, &*fusion);
    assert_eq!(adapted(&model, &*members[0]), one, "a member has changed");
    let gated = tempfile::tempdir().expect("a folder");
    saved(&*fresh(&model, json!({"method": "houlsby", "use_gating": true})), gated.path());
    for (other, expected) in [(gated.path(), "houlsby has gates"), (dir.path(), "cannot read")] {
        let recipe = json!({"method": "fusion", "adapters": [paths[0], other]});
        let error = build(&model, recipe).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    let twice = build(&model, json!({"method": "fusion", "adapters": [paths[0], paths[0]]}));
    assert!(twice.unwrap_err().to_string().contains("two adapters of a fusion have the name"));
}

/// Writes an adapter's tensors under another name of the adapter.
fn rename_adapter(dir: &Path, from: &str, to: &str) {
    use puna_io::safetensors::SafetensorsFile;
    use puna_io::{TensorBytes, TensorInfo, write::write_safetensors_from};
    let path = dir.join("adapter.safetensors");
    let tensors: Vec<(String, TensorInfo, Vec<u8>)> = {
        let file = SafetensorsFile::open(&path).expect("a file");
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let read = |name: String| {
            let tensor = file.tensor(&name).expect("a tensor");
            let renamed = name.replace(&format!(".{from}."), &format!(".{to}."));
            (renamed, tensor.info.clone(), tensor.bytes.to_vec())
        };
        names.into_iter().map(read).collect()
    };
    let list: Vec<_> = tensors.iter().map(|(name, info, _)| (name.clone(), info.clone())).collect();
    write_safetensors_from(&path, &list, &std::collections::BTreeMap::new(), |name| {
        let bytes = tensors.iter().find(|(n, ..)| n == name).expect("a tensor").2.clone();
        Ok::<_, PeftError>(TensorBytes::from_vec(bytes))
    })
    .expect("written");
}

#[test]
fn adamix_routes_at_random_in_training_and_averages_afterwards() {
    let Some(model) = model() else { return };
    let recipe = json!({"method": "adamix", "copies": 3, "consistency": 2.0,
                        "placement": "houlsby"});
    let method = fresh(&model, recipe);
    scatter(&*method);
    let (batch, set) = (Batch::new(), set_of(&*method));
    let losses: Vec<f64> =
        (0..6).map(|seed| batch.train(&model, &set, Recompute::Nothing, seed)).collect();
    assert!(losses.iter().any(|loss| (loss - losses[0]).abs() > 1e-6), "{losses:?}");
    let again = batch.train(&model, &set, Recompute::Blocks, 0);
    assert!((again - losses[0]).abs() < 1e-9, "the routing is the seed's");
    check_gradients("adamix", &model, &*method, Some(4));
    // Saved is one bottleneck for each place: the mean.
    let dir = tempfile::tempdir().expect("a folder");
    saved(&*method, dir.path());
    let merged = load(dir.path(), &base(&model)).expect("loaded");
    assert_eq!(merged.name(), "houlsby");
    assert_eq!(3 * merged.size(), method.size());
    assert_eq!(adapted(&model, &*merged), adapted(&model, &*method));
}
