//! Pictures of fits.

use std::path::{Path, PathBuf};

use puna_laws::{
    Budgets, Count, Ensemble, FitOptions, LawName, Point, Study, bootstrap, draw_figures, fit,
    group_by_budget, isoflop, read_points,
};

use super::reference::path;

/// Where pictures are left for a look: the folder PUNA_KEEP_PICTURES, if set.
fn folder(scratch: &Path, name: &str) -> PathBuf {
    std::env::var_os("PUNA_KEEP_PICTURES")
        .map_or_else(|| scratch.to_path_buf(), PathBuf::from)
        .join(name)
}

#[test]
fn the_pictures_of_the_chinchilla_points_say_what_they_show() {
    let file = read_points(&path("chinchilla_points.csv"), Count::Matmul).unwrap();
    let groups = group_by_budget(&file.points, &file.budgets());
    let parabolas = isoflop(&groups).unwrap();
    let study = Study {
        title: "chinchilla <points>",
        counted: &file.counted,
        points: &file.points,
        law: &LawName::Besiroglu2024.parametric(),
        ensemble: Some(Ensemble::published()),
        isoflop: Some((&groups, &parabolas)),
    };
    let scratch = tempfile::tempdir().unwrap();
    let folder = folder(scratch.path(), "chinchilla");
    let written = draw_figures(&study, &folder).unwrap();
    assert_eq!(written.len(), 10);
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    for (name, words) in [
        (
            "isoflop.svg",
            ["chinchilla &lt;points&gt;", "parameters N", "loss (nats per token)", "6e18", "100 M"],
        ),
        (
            "best-params.svg",
            ["budget C = 6ND (FLOP)", "parameters N", "80 % of resamples", "20 tokens", "1e24"],
        ),
        (
            "best-tokens.svg",
            ["budget C = 6ND (FLOP)", "tokens D", "80 % of resamples", "vertices", "100 B"],
        ),
        (
            "best-loss.svg",
            ["budget C = 6ND (FLOP)", "loss (nats per token)", "law through", "vertices", "3.0"],
        ),
        ("contours.svg", ["budget C = 6ND (FLOP)", "parameters N", "best sizes", "1e20", "10 B"]),
    ] {
        let text = text(name);
        for word in words {
            assert!(text.contains(word), "{word} is not in {name}");
        }
    }
    for path in written.iter().filter(|path| path.extension().is_some_and(|end| end == "png")) {
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{}", path.display());
    }
}

/// Three budgets of five sizes of a few million parameters, as a first sweep has.
fn small_sweep() -> Vec<Point> {
    let law = LawName::Besiroglu2024.parametric();
    let mut points = Vec::new();
    for (row, budget) in [1e15, 3e15, 1e16].into_iter().enumerate() {
        let best = law.for_flops(budget).params;
        for (column, factor) in [0.4, 0.7, 1.0, 1.6, 2.6].into_iter().enumerate() {
            let params = best * factor;
            let tokens = budget / (6.0 * params);
            let noise = 1.0 + 0.002 * ((3 * row + 5 * column) % 7) as f64 - 0.006;
            points.push(Point::new(params, tokens, law.loss(params, tokens) * noise));
        }
    }
    points
}

#[test]
fn a_small_sweep_has_pictures_too() {
    let points = small_sweep();
    let groups = group_by_budget(&points, &Budgets::Found);
    let parabolas = isoflop(&groups).unwrap();
    assert_eq!(parabolas.parabolas.len(), 3);
    let options = FitOptions { starts: 60, ..FitOptions::default() };
    let found = fit(&points, &options, &|_, _| ()).unwrap();
    let ensemble = bootstrap(&points, &found, &options, 100, &|_, _| ()).unwrap();
    let mut study = Study {
        title: "small sweep",
        counted: "matmul parameters",
        points: &points,
        law: &found.law,
        ensemble: Some(&ensemble),
        isoflop: Some((&groups, &parabolas)),
    };
    let scratch = tempfile::tempdir().unwrap();
    let written = draw_figures(&study, &folder(scratch.path(), "small")).unwrap();
    assert_eq!(written.len(), 10);
    // Without bands and parabolas there are four pictures left.
    (study.ensemble, study.isoflop) = (None, None);
    assert_eq!(draw_figures(&study, &scratch.path().join("bare")).unwrap().len(), 8);
}
