//! Fits to the Chinchilla points and to planted laws.

use puna_laws::{
    Count, FitOptions, GopherShape, LawName, Outliers, ParametricLaw, Point, PowerLaw,
    PowerLawName, RobustLoss, bootstrap, envelope, fit, group_by_budget, isoflop, objective_of,
    read_points, without_outliers,
};

use super::reference::{agrees, near, path, table};

fn all_points() -> Vec<Point> {
    read_points(&path("chinchilla_points.csv"), Count::Matmul).unwrap().points
}

fn points() -> Vec<Point> {
    without_outliers(&all_points(), Outliers::default()).0
}

fn quiet(_: usize, _: usize) {}

#[test]
fn the_five_highest_losses_of_besiroglu_s_points_are_dropped() {
    let (all, kept) = (all_points(), points());
    assert_eq!((all.len(), kept.len()), (245, 240));
    for (row, point) in table("chinchilla_points.csv").iter().zip(&all) {
        assert_eq!(row.text("in_epoch_fit") == "1", kept.contains(point));
        near(point.flops(), row.number("train_flop"), 1e-9, "6ND");
    }
}

#[test]
fn the_fit_is_the_minimum_of_hoffmann_s_objective() {
    let points = points();
    let found = fit(&points, &FitOptions::default(), &quiet).unwrap();
    near(found.law.a, 477.826, 5e-4, "A");
    near(found.law.b, 2143.417, 5e-4, "B");
    near(found.law.e, 1.817218, 1e-4, "E");
    near(found.law.alpha, 0.347310, 1e-4, "alpha");
    near(found.law.beta, 0.367172, 1e-4, "beta");
    agrees("fit_huber_alpha", found.law.alpha);
    agrees("fit_huber_beta", found.law.beta);
    agrees("fit_huber_E", found.law.e);
    assert!(found.objective <= 1.0182740178e-3 * (1.0 + 1e-9), "{}", found.objective);
    assert_eq!((found.points, found.starts), (240, 300));
    assert!(found.agreeing_starts > 100, "{}", found.agreeing_starts);
}

#[test]
fn the_objective_of_published_constants_is_as_recorded() {
    let points = points();
    let at = |name: LawName| objective_of(&points, &name.parametric(), RobustLoss::default());
    near(at(LawName::Hoffmann2022Tex), 1.231163e-3, 1e-5, "TeX");
    near(at(LawName::Hoffmann2022Rounded), 4.121009e-3, 1e-5, "rounded");
}

#[test]
fn least_absolute_deviations_give_the_published_refit() {
    let options = FitOptions { loss: RobustLoss::L1, ..FitOptions::default() };
    let points = points();
    let found = fit(&points, &options, &quiet).unwrap();
    near(found.law.a, 482.01, 1e-3, "A");
    agrees("fit_l1_limit_B", found.law.b);
    agrees("fit_l1_limit_E", found.law.e);
    agrees("fit_l1_limit_alpha", found.law.alpha);
    near(found.law.beta, 0.365854, 1e-4, "beta");
    // The recorded fit is one with δ = 1e-6, and its number the Huber sum / δ.
    let recorded =
        ParametricLaw { a: 481.93, b: 2085.00, e: 1.81684, alpha: 0.347804, beta: 0.365844 };
    let huber = objective_of(&points, &recorded, RobustLoss::Huber { delta: 1e-6 });
    near(huber / 1e-6, 1.12938, 1e-5, "Huber sum of the recorded fit");
    assert!(found.objective <= objective_of(&points, &recorded, RobustLoss::L1));
    assert!(
        found.objective <= objective_of(&points, &LawName::default().parametric(), RobustLoss::L1)
    );
}

#[test]
fn the_outliers_move_the_fit() {
    let found = fit(&all_points(), &FitOptions::default(), &quiet).unwrap();
    agrees("fit_245_outliers_A", found.law.a);
    near(found.law.b, 12845.6, 1e-3, "B");
    near(found.objective, 1.8260105e-3, 1e-6, "objective");
}

#[test]
fn parabolas_give_the_recorded_optima_and_exponent() {
    let file = read_points(&path("chinchilla_points.csv"), Count::Matmul).unwrap();
    let groups = group_by_budget(&file.points, &file.budgets());
    let found = isoflop(&groups).unwrap();
    let rows = table("chinchilla_isoflop_fit.csv");
    assert_eq!((found.parabolas.len(), found.left_out.len()), (rows.len(), 0));
    for (row, parabola) in rows.iter().zip(&found.parabolas) {
        near(parabola.budget, row.number("budget_flops"), 1e-12, "budget");
        assert_eq!(parabola.points as f64, row.number("points_within_0.12_ln"));
        assert_eq!(parabola.fitted as f64, row.number("points_in_parabola_window_1.2_ln"));
        near(parabola.params, row.number("N_opt"), 1e-5, "N");
        near(parabola.tokens, row.number("D_opt=C/6N"), 1e-5, "D");
        near(parabola.tokens / parabola.params, row.number("tokens_per_param"), 1e-4, "D/N");
        near(parabola.loss, row.number("loss_min"), 1e-5, "loss");
    }
    agrees("isoflop_a", found.law.params.exponent);
    near(found.law.params.coefficient, 0.0479675, 1e-3, "coefficient");
    near(found.law.params_for_flops(5.76e23), 7.303e10, 1e-3, "Gopher's budget");
    // Exponents by window, of which the last two budgets' digits are recorded.
    let recorded = [0.509, 0.503, 0.513, 0.514, 0.512, 0.502];
    for ((window, law), expected) in found.windows.iter().zip(recorded) {
        let exponent = law.params.exponent;
        assert!((exponent - expected).abs() < 6e-4, "{window}: {exponent} instead of {expected}");
    }
}

#[test]
fn every_size_of_the_points_is_one_of_the_paper_s() {
    let sizes: Vec<f64> = table("chinchilla_tableA9.csv")
        .iter()
        .map(|row| {
            let shape = GopherShape {
                layers: row.number("n_layers") as u64,
                hidden: row.number("d_model") as u64,
                ffn: row.number("ffw_size") as u64,
                attention: (row.number("n_heads") * row.number("kv_size")) as u64,
            };
            let printed = row.number("params_million") * 1e6;
            near(shape.params() as f64, printed, 0.01, "size by formula");
            printed
        })
        .collect();
    for point in all_points() {
        let nearest = sizes.iter().map(|size| (point.params / size).ln().abs());
        assert!(nearest.fold(f64::INFINITY, f64::min) < 0.006, "{point:?}");
    }
    for row in table("chinchilla_tableA4.csv") {
        let shape = GopherShape {
            layers: row.number("layers") as u64,
            hidden: row.number("d_model") as u64,
            ffn: row.number("ffw") as u64,
            attention: (row.number("heads") * row.number("kv")) as u64,
        };
        // The paper divides by sizes that it prints with two or three digits.
        let ratio = shape.layer_flops(2048) as f64 / (6.0 * shape.params() as f64 * 2048.0);
        assert!((ratio - row.number("printed_ratio")).abs() < 0.01, "{ratio}");
        near(ratio, row.number("layers_only_ratio"), 0.011, "ratio");
    }
}

/// The log of nanochat prints exponents of its own, from unrounded optima: within 0.02.
#[test]
fn the_count_of_parameters_moves_a_small_sweep_s_exponent() {
    for (count, params, tokens) in [
        ("matmul (transformer+lm_head)", 0.54, 0.49),
        ("all", 0.37, 0.50),
        ("transformer only", 0.70, 0.41),
    ] {
        let exponent = |column: &str| {
            let rows = table("nanochat_isoflop_optima.csv");
            let rows = rows.iter().filter(|row| row.text("param_convention") == count);
            let points = rows.map(|row| (row.number("flops"), row.number(column)));
            PowerLaw::fit(points.collect::<Vec<_>>()).unwrap().exponent
        };
        assert!((exponent("eff_params") - params).abs() < 0.02, "{count}");
        assert!((exponent("tokens") - tokens).abs() < 0.02, "{count}");
    }
}

#[test]
fn the_envelope_of_the_points_lies_near_the_paper_s_line() {
    let found = envelope(&points()).unwrap();
    assert!((found.law.params.exponent - 0.498).abs() < 0.05, "{:?}", found.law);
    let paper = PowerLawName::HoffmannApproach1.frontier().params_for_flops(1e21);
    near(found.law.params_for_flops(1e21), paper, 0.15, "best size for 1e21");
}

/// The Chinchilla sizes and tokens with a law's losses.
fn planted(law: &ParametricLaw, noise: impl Fn(usize) -> f64) -> Vec<Point> {
    let with = |(index, point): (usize, &Point)| {
        let loss = law.loss(point.params, point.tokens) * noise(index).exp();
        Point { loss, ..*point }
    };
    points().iter().enumerate().map(with).collect()
}

#[test]
fn a_planted_law_is_found_to_six_digits() {
    for name in [LawName::Besiroglu2024, LawName::Hoffmann2022Tex] {
        let law = name.parametric();
        let found = fit(&planted(&law, |_| 0.0), &FitOptions::default(), &quiet).unwrap();
        near(found.law.a, law.a, 1e-6, "A");
        near(found.law.b, law.b, 1e-6, "B");
        near(found.law.e, law.e, 1e-6, "E");
        near(found.law.alpha, law.alpha, 1e-6, "alpha");
        near(found.law.beta, law.beta, 1e-6, "beta");
        assert!(found.objective < 1e-12, "{}", found.objective);
        assert!(found.agreeing_starts > 50);
    }
}

#[test]
fn intervals_of_a_bootstrap_cover_a_planted_law() {
    let law = LawName::Besiroglu2024.parametric();
    // Twelve uniform numbers are nearly normal; deviation 0.005.
    let noise = |index: usize| {
        let mut state = index as u64 * 7919 + 13;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        0.005 * ((0..12).map(|_| uniform()).sum::<f64>() - 6.0)
    };
    let points = planted(&law, noise);
    let options = FitOptions::default();
    let found = fit(&points, &options, &quiet).unwrap();
    // Deviations over seeds that were measured with this noise.
    for (got, expected, deviation) in [
        (found.law.a, law.a, 57.0),
        (found.law.b, law.b, 393.0),
        (found.law.e, law.e, 0.0126),
        (found.law.alpha, law.alpha, 0.0065),
        (found.law.beta, law.beta, 0.0092),
    ] {
        assert!((got - expected).abs() < 4.0 * deviation, "{got} {expected}");
    }
    let ensemble = bootstrap(&points, &found, &options, 200, &quiet).unwrap();
    let spread = ensemble.deviation(|law| law.alpha);
    assert!((0.003..0.013).contains(&spread), "{spread}");
    let between = ensemble.loss(1e9, 2e10, puna_laws::Level::Percent95);
    assert!(between.low < between.high && between.high - between.low < 0.02);
}
