//! Embeddings: pooled by hand, the same bits in any batch and chunk, those of the golden model.

use crate::fake::{FakeModel, Rule};
use puna_infer::{EmbedOptions, InferError, LanguageModel, Magnitude, Pooling, embed};
use puna_model::{LoadOptions, Model, Precision};
use puna_testkit::GoldenCase;

fn options(pooling: Pooling, magnitude: Magnitude, chunk: usize) -> EmbedOptions {
    EmbedOptions { pooling, magnitude, chunk }
}

#[test]
fn states_are_pooled_over_each_text_alone() {
    let model = FakeModel::new(Rule::Hash, 40, 64);
    let texts = [vec![3, 5], vec![7], vec![0, 0, 8, 0]];
    for chunk in [1, 2, 3, 100] {
        let pooled = |pooling| {
            let options = options(pooling, Magnitude::AsPooled, chunk);
            embed(&model, &texts, &options, || model.new_cache()).unwrap()
        };
        assert_eq!(pooled(Pooling::Mean), [[4.0, 1.5], [7.0, 1.0], [2.0, 2.5]]);
        assert_eq!(pooled(Pooling::Last), [[5.0, 2.0], [7.0, 1.0], [0.0, 4.0]]);
    }
    let unit = options(Pooling::Last, Magnitude::Unit, 9);
    let vectors = embed(&model, &[vec![1, 2, 3, 3]], &unit, || model.new_cache()).unwrap();
    assert_eq!(vectors, [[0.6, 0.8]]);
}

#[test]
fn what_cannot_be_embedded_is_named() {
    let model = FakeModel::new(Rule::Hash, 40, 4);
    let embed = |text: &[u32], chunk| {
        let options = options(Pooling::Mean, Magnitude::Unit, chunk);
        embed(&model, &[vec![1], text.to_vec()], &options, || model.new_cache()).unwrap_err()
    };
    assert!(matches!(embed(&[], 8), InferError::EmptyPrompt { sequence: 1 }));
    assert!(matches!(embed(&[3, 40], 8), InferError::TokenOutOfRange { position: 1, .. }));
    assert!(matches!(embed(&[0; 5], 8), InferError::ContextOverflow { prompt: 5, .. }));
    assert!(matches!(embed(&[0], 0), InferError::InvalidOption { field: "chunk", .. }));
}

#[test]
fn real_states_are_the_same_in_any_batch_and_chunk_and_the_heads_input() {
    let Some(case) = GoldenCase::open("text/llama2-gqa") else { return };
    let model = Model::load(&case.dir, &LoadOptions::new(Precision::Exact)).unwrap().decoder;
    let texts: Vec<Vec<u32>> = (0..case.prompts()).map(|i| case.input_ids(i)).collect();
    let embed = |texts: &[Vec<u32>], chunk| {
        let options = options(Pooling::Last, Magnitude::AsPooled, chunk);
        embed(&model, texts, &options, || model.new_cache()).unwrap()
    };
    let together = embed(&texts, 512);
    for (text, vector) in texts.iter().zip(&together) {
        assert_eq!(&embed(std::slice::from_ref(text), 3)[0], vector);
    }
    // The head's first row is the first logit's weights.
    let head = model.linears().pop().unwrap().1.weight().clone();
    let weights = head.dequantize().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (prompt, vector) in together.iter().enumerate() {
        let golden = case.logits(prompt);
        let last = &golden.values[golden.values.len() - golden.vocab_size..];
        let product: f32 = weights.iter().zip(vector).map(|(w, x)| w * x).sum();
        assert!((product - last[0]).abs() < 1e-3, "{product} for {}", last[0]);
    }
}
