//! Rotary frequencies against literal numbers (float32, printed by `rope_numbers.py`).

use puna_config::{RopeConfig, RopeFrequencies, RopeScaling, YarnRamp};

/// float32 rounds each of a handful of operations to 6e-8.
const RELATIVE: f64 = 1e-6;

fn rope(theta: f64, rotary_dim: usize, scaling: RopeScaling) -> RopeConfig {
    RopeConfig { theta, rotary_dim, scaling }
}

fn assert_close(freqs: &RopeFrequencies, expected: &[f64]) {
    assert_eq!(freqs.inv_freq.len(), expected.len());
    for (i, (got, want)) in freqs.inv_freq.iter().zip(expected).enumerate() {
        assert!((got - want).abs() <= RELATIVE * want, "frequency {i}: {got} against {want}");
    }
}

fn llama3(original_max: usize) -> RopeScaling {
    RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max }
}

#[test]
fn plain_frequencies_match_transformers() {
    let expected = [
        1.0,
        1.939227581e-01,
        3.760603070e-02,
        7.292665076e-03,
        1.414213446e-03,
        2.742481884e-04,
        5.318296462e-05,
        1.031338525e-05,
    ];
    assert_close(&rope(5e5, 16, RopeScaling::None).inverse_frequencies(9000), &expected);
}

#[test]
fn rope_matches_hf_for_llama3_scaling() {
    let expected = [
        1.0,
        1.939227581e-01,
        3.760603070e-02,
        7.292665076e-03,
        5.248460220e-04,
        3.428102355e-05,
        6.647870578e-06,
        1.289173156e-06,
    ];
    assert_close(&rope(5e5, 16, llama3(8192)).inverse_frequencies(1), &expected);
    let expected = [
        1.0,
        7.940301299e-02,
        4.700753838e-03,
        9.115831344e-04,
        1.767766807e-04,
        3.428102355e-05,
        6.647870578e-06,
        1.289173156e-06,
    ];
    assert_close(&rope(5e5, 16, llama3(64)).inverse_frequencies(1), &expected);
}

#[test]
fn dynamic_ntk_grows_with_the_sequence() {
    let rope = rope(1e4, 16, RopeScaling::DynamicNtk { factor: 2.0, original_max: 32 });
    let expected = [
        1.0,
        2.495284677e-01,
        6.226445362e-02,
        1.553675346e-02,
        3.876862349e-03,
        9.673875174e-04,
        2.413907350e-04,
        6.023386231e-05,
    ];
    assert_close(&rope.inverse_frequencies(100), &expected);
    assert_eq!(rope.inverse_frequencies(1), rope.inverse_frequencies(32));
    assert_ne!(rope.inverse_frequencies(33), rope.inverse_frequencies(32));
}

#[test]
fn yarn_blends_kept_and_divided_frequencies() {
    let yarn = |original_max, ramp| RopeScaling::Yarn {
        factor: 4.0,
        original_max,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.25,
        ramp,
    };
    let freqs = rope(1e4, 16, yarn(1024, YarnRamp::Truncated)).inverse_frequencies(1);
    let expected = [
        1.0,
        3.162277639e-01,
        8.125000447e-02,
        1.976423711e-02,
        4.375000019e-03,
        7.905694656e-04,
        2.500000119e-04,
        7.905694656e-05,
    ];
    assert_close(&freqs, &expected);
    assert_eq!(freqs.attention_factor, 1.25);
    let freqs = rope(1e6, 16, yarn(32_768, YarnRamp::Exact)).inverse_frequencies(1);
    let expected = [
        1.0,
        1.778279394e-01,
        3.162277862e-02,
        5.517270416e-03,
        6.074080011e-04,
        4.445698505e-05,
        7.905693565e-06,
        1.405853368e-06,
    ];
    assert_close(&freqs, &expected);
}

#[test]
fn longrope_switches_tables_beyond_the_original_length() {
    let scaling = RopeScaling::LongRope {
        short_factor: vec![1.0; 4],
        long_factor: vec![1.0, 1.7, 2.4, 3.1],
        original_max: 32,
        attention_factor: 1.1832159566199232,
    };
    let rope = rope(1e4, 8, scaling);
    assert_close(&rope.inverse_frequencies(32), &[1.0, 0.1, 0.01, 0.001]);
    let long = rope.inverse_frequencies(33);
    assert_close(&long, &[1.0, 5.882352963e-02, 4.166666418e-03, 3.225806577e-04]);
    assert_eq!(long.attention_factor, 1.1832159566199232);
}
