//! PET on a golden model: scores, the loss over a verbalizer's words, training, soft labels.

use std::sync::Arc;

use puna_model::{Model, Precision, Recompute, TrainingPass};
use puna_nn::{Pass, Slot};
use puna_peft::pet::{
    ClozeLoss, ClozeRows, TEMPERATURE, Verbalizer, average_scores, label_probabilities,
};
use puna_peft::{AdapterSet, Base, Method};

use crate::soft::{assert_near, build, logits, methods, model, set, tokens};

/// A small reordering of sums.
const SAME: f32 = 2e-5;

fn verbalizer(model: &Model) -> Verbalizer {
    let words = [vec![40], vec![200], vec![7]];
    Verbalizer::new(&words, model.config.decoder.vocab_size).expect("three words")
}

fn restricted(model: &Model, set: &AdapterSet) -> Arc<AdapterSet> {
    let base = Base { decoder: &model.decoder, config: &model.config };
    Arc::new(verbalizer(model).restrict(&base, set).expect("a head of three rows"))
}

/// Texts that begin with different tokens have different labels.
fn examples(model: &Model, from: u32, count: usize) -> Vec<(Vec<u32>, usize)> {
    let vocab = model.config.decoder.vocab_size;
    let example = |index: usize| {
        let label = index % 3;
        let text = tokens(from + index as u32, 4 + index % 5, vocab);
        // The pattern's question is at the end.
        ([&[50 + label as u32], text.as_slice(), &[90, 91]].concat(), label)
    };
    (0..count).map(example).collect()
}

fn rows(model: &Model, examples: &[(Vec<u32>, usize)], loss: ClozeLoss) -> ClozeRows {
    let examples: Vec<_> = examples.iter().map(|(t, label)| (t.as_slice(), *label)).collect();
    ClozeRows::new(&examples, &verbalizer(model), loss).expect("rows")
}

fn scores(model: &Model, set: &Arc<AdapterSet>, text: &[u32]) -> Vec<f32> {
    let all = logits(model, Some(set), text, 100);
    let last = &all[all.len() - model.config.decoder.vocab_size..];
    verbalizer(model).scores(last).expect("scores")
}

fn train(model: &Model, set: Arc<AdapterSet>, rows: &ClozeRows, scale: f32) -> f64 {
    let pass = TrainingPass {
        scale,
        z_loss: 0.0,
        load_balance: 0.0,
        recompute: Recompute::Nothing,
        precision: Precision::Exact,
        adapters: Some(set),
        seed: 1,
    };
    model.decoder.train_on(&rows.view(), &pass, |_| {}).expect("a pass").loss
}

fn gradients(method: &dyn Method) -> Vec<f32> {
    let trained = method.trained();
    let of = trained.iter().flat_map(|t| {
        let gradient = t.parameter.with_gradient(|g| g.expect("a gradient").to_vec());
        t.parameter.clear_gradient();
        gradient
    });
    of.collect()
}

#[test]
fn the_head_of_words_gives_the_scores_and_the_loss_is_over_them() {
    for name in ["llama2-gqa", "gemma2", "llama32-tied"] {
        let Some(model) = model(name) else { continue };
        let method = build(&methods(4)[0], &model, 1);
        let set = set(&*method);
        let restricted = restricted(&model, &set);
        let examples = examples(&model, 1, 7);
        let pass = Pass { adapters: Some(restricted.clone()), ..Pass::new(Precision::Exact) };
        let mut expected = 0.0;
        for (text, label) in &examples {
            let scores = scores(&model, &set, text);
            let direct = model.decoder.next_logits(text, &pass).unwrap();
            assert_near(name, &direct, &scores, SAME);
            expected -= f64::from(label_probabilities(&scores, 1.0)[*label].ln());
        }
        let rows = rows(&model, &examples, ClozeLoss::Words);
        let loss = model.decoder.evaluate(&rows.view(), &pass).unwrap();
        assert_eq!(loss.targets, 7);
        assert!((loss.loss - expected).abs() < 1e-4, "{name}: {} {expected}", loss.loss);
    }
}

/// With the model's own head the loss is that of the word in the vocabulary.
#[test]
fn the_loss_of_a_language_model_is_over_the_vocabulary() {
    let Some(model) = model("llama2-gqa") else { return };
    let set = set(&*build(&methods(4)[4], &model, 1));
    let examples = examples(&model, 1, 5);
    let expected: f64 = examples
        .iter()
        .map(|(text, label)| {
            let all = logits(&model, Some(&set), text, 100);
            let last = &all[all.len() - model.config.decoder.vocab_size..];
            let word = verbalizer(&model).tokens()[*label] as usize;
            -f64::from(label_probabilities(last, 1.0)[word].ln())
        })
        .sum();
    let pass = Pass { adapters: Some(set), ..Pass::new(Precision::Exact) };
    let rows = rows(&model, &examples, ClozeLoss::Vocabulary);
    let loss = model.decoder.evaluate(&rows.view(), &pass).unwrap().loss;
    assert!((loss - expected).abs() < 1e-4, "{loss} {expected}");
}

/// The gradient of a soft label's loss is the sum of the labels' gradients by their probabilities:
/// here of one with probability 1, and of a mixture.
#[test]
fn passes_by_label_add_up_to_soft_labels() {
    let Some(model) = model("llama2-gqa") else { return };
    let method = build(&methods(4)[0], &model, 1);
    let restricted = restricted(&model, &set(&*method));
    let text = examples(&model, 1, 1)[0].0.clone();
    let pass = |label, scale| {
        let rows = rows(&model, &[(text.clone(), label)], ClozeLoss::Words);
        f64::from(scale) * train(&model, restricted.clone(), &rows, scale)
    };
    let mut hard = Vec::new();
    for label in 0..3 {
        pass(label, 1.0);
        hard.push(gradients(&*method));
    }
    let soft = label_probabilities(&scores(&model, &set(&*method), &text), TEMPERATURE);
    soft.iter().enumerate().for_each(|(label, &q)| {
        pass(label, q);
    });
    let got = gradients(&*method);
    let mixed = (0..got.len()).map(|i| (0..3).map(|l| soft[l] * hard[l][i]).sum::<f32>());
    let mixed = mixed.collect::<Vec<_>>();
    assert_near("mixture", &got, &mixed, SAME);
    // In one pass, with factors.
    let of_soft = [(text.as_slice(), soft.as_slice())];
    let rows = ClozeRows::soft(&of_soft, &verbalizer(&model), ClozeLoss::Words).unwrap();
    let loss = train(&model, restricted.clone(), &rows, 1.0);
    assert_near("rows with factors", &gradients(&*method), &mixed, SAME);
    let log = |p: &f32| f64::from(p.ln());
    let expected = label_probabilities(&scores(&model, &set(&*method), &text), 1.0);
    let expected: f64 = soft.iter().zip(&expected).map(|(q, p)| -f64::from(*q) * log(p)).sum();
    assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    // A model's own probabilities are the labels with the least loss: no gradient.
    let own = label_probabilities(&scores(&model, &set(&*method), &text), 1.0);
    own.iter().enumerate().for_each(|(label, &q)| {
        pass(label, q);
    });
    assert_near("own labels", &gradients(&*method), &vec![0.0; got.len()], SAME);
}

#[test]
fn training_on_few_examples_labels_others_and_patterns_vote() {
    let Some(model) = model("llama2-gqa") else { return };
    let (seen, unseen) = (examples(&model, 1, 24), examples(&model, 500, 30));
    let mut all = vec![Vec::new(); unseen.len()];
    for (pattern, config) in [&methods(6)[0], &methods(6)[3]].into_iter().enumerate() {
        let method = build(config, &model, pattern as u64);
        let restricted = restricted(&model, &set(&*method));
        let rows = rows(&model, &seen, ClozeLoss::Words);
        let mut losses = Vec::new();
        for _ in 0..60 {
            losses.push(train(&model, restricted.clone(), &rows, 1.0 / 24.0));
            for trained in method.trained() {
                let gradient = trained.parameter.with_gradient(|g| g.unwrap().to_vec());
                trained.parameter.clear_gradient();
                let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt().max(1e-12);
                let mut values = trained.parameter.values_mut();
                values.iter_mut().zip(gradient).for_each(|(v, g)| *v -= 0.1 * g / norm);
            }
        }
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < 0.5 * first, "{}: {first} to {last}", method.name());
        let set = set(&*method);
        for ((text, _), all) in unseen.iter().zip(&mut all) {
            all.push(scores(&model, &set, text));
        }
    }
    let right = unseen.iter().zip(&all).filter(|((_, label), scores)| {
        let soft = label_probabilities(&average_scores(scores, None).unwrap(), TEMPERATURE);
        assert!((soft.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        (0..3).all(|other| soft[other] <= soft[*label])
    });
    // Chance is 10 of 30.
    let right = right.count();
    assert!(right >= 18, "{right} of 30");
}

#[test]
fn an_adapter_of_the_head_is_not_left_out_in_silence() {
    let Some(model) = model("llama2-gqa") else { return };
    let mut set = AdapterSet::default();
    set.linears.entry(Slot::Head).or_default();
    let base = Base { decoder: &model.decoder, config: &model.config };
    let error = verbalizer(&model).restrict(&base, &set).unwrap_err().to_string();
    assert_eq!(error, "a verbalizer's head: an adapter of the head would be left out");
}
