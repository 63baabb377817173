//! The loss curve as a picture: the thin line is what each step saw, the strong one its running mean,
//! the dots are validation.

mod curve;
mod scatter;

pub use scatter::{Dot, plot_scatter};

use std::path::Path;

use puna_plot::plotters::coord::Shift;
use puna_plot::plotters::prelude::*;
use puna_plot::style::{CONTRAST, GRID, INK, PALE, STRONG};
use puna_plot::{
    Chart, Drawing, Drawn, Frame, Picture, Scale, draw_axes, font, frame, grouped, paint,
};

use self::curve::Curve;
use super::error::LogError;
use super::metrics::Metrics;

/// A loss curve under its title.
struct LossCurve<'a> {
    curve: Curve,
    title: &'a str,
}

impl Drawing for LossCurve<'_> {
    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        picture: Picture,
    ) -> Drawn<DB> {
        draw(area, &self.curve, self.title, picture)
    }
}

/// Draws the losses of a run over its steps.
///
/// # Errors
/// [`LogError::NoCurve`] if no step has a finite loss; else if the file cannot be written.
pub fn plot_loss(
    metrics: &[Metrics],
    title: &str,
    picture: Picture,
    path: &Path,
) -> Result<(), LogError> {
    let curve = Curve::of(metrics).ok_or(LogError::NoCurve)?;
    Ok(paint(&LossCurve { curve, title }, picture, path)?)
}

/// Draws the curve and all around it.
fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    curve: &Curve,
    title: &str,
    picture: Picture,
) -> Drawn<DB> {
    let scale = picture.scale();
    let decimals = curve.y_decimals();
    let around = Frame {
        title,
        subtitle: &curve.summary(),
        x: Scale::even(curve.x_label(), curve.x_range(), 9, grouped),
        y: Scale::even("loss (nats per token)", curve.y_range(), 8, move |loss| {
            format!("{loss:.decimals$}")
        }),
        right: 28,
    };
    let mut chart = frame(area, &around, picture)?;
    draw_axes(&mut chart, &around, picture)?;
    series(&mut chart, curve, picture)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(10 * scale)
        .legend_area_size(26 * scale)
        .background_style(WHITE.mix(0.9))
        .border_style(GRID.stroke_width(scale))
        .label_font(font(13, &INK, picture))
        .draw()?;
    area.present()
}

fn series<'a, DB: DrawingBackend + 'a>(
    chart: &mut Chart<'a, DB>,
    curve: &Curve,
    picture: Picture,
) -> Drawn<DB> {
    let scale = picture.scale();
    let key = move |style: ShapeStyle| {
        let half = 11 * scale as i32;
        move |(x, y): (i32, i32)| PathElement::new(vec![(x, y), (x + 2 * half, y)], style)
    };
    let step = PALE.stroke_width(scale);
    let points = curve.steps.iter().copied();
    match picture {
        Picture::Svg => chart.draw_series(LineSeries::new(points, step))?,
        // Piece by piece: where a noisy line turns back the library joins pieces with long spikes.
        Picture::Png => {
            let piece = |ends: &[(f64, f64)]| PathElement::new(ends.to_vec(), step);
            chart.draw_series(curve.steps.windows(2).map(piece))?
        }
    };
    let mean = STRONG.stroke_width(2 * scale);
    let line = chart.draw_series(LineSeries::new(curve.mean.iter().copied(), mean))?;
    line.label("training, mean").legend(key(mean));
    // The thin line's place in the legend comes after the strong one's.
    chart
        .draw_series(LineSeries::new(std::iter::empty(), step))?
        .label("training, steps")
        .legend(key(step));
    if curve.validation.is_empty() {
        return Ok(());
    }
    let line = CONTRAST.stroke_width(scale);
    let dot = CONTRAST.filled();
    let radius = 4 * scale as i32;
    chart.draw_series(LineSeries::new(curve.validation.iter().copied(), line))?;
    let dots = curve.validation.iter().map(|&point| Circle::new(point, radius, dot));
    chart.draw_series(dots)?.label("validation").legend(move |(x, y)| {
        let half = 11 * scale as i32;
        EmptyElement::at((x, y))
            + PathElement::new(vec![(0, 0), (2 * half, 0)], line)
            + Circle::new((half, 0), radius, dot)
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{StepMetrics, ValidationMetrics};
    use super::*;

    /// A run as runs look: falling, noisy, with validation.
    fn run(steps: u64) -> Vec<Metrics> {
        let mut metrics = Vec::new();
        let mut noise = 1_u64;
        for step in 1..=steps {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let jitter = (noise >> 40) as f64 / (1 << 24) as f64 - 0.5;
            let part = step as f64 / steps as f64;
            let loss = 3.3 + 5.0 * (-part * 9.0).exp() + 0.9 * (1.0 - part) + 0.35 * jitter;
            let tokens = step * 16_384;
            metrics.push(Metrics::Step(StepMetrics { step, tokens, loss, ..Default::default() }));
            if step % (steps / 10) == 0 {
                let validation_loss = loss - 0.35 * jitter + 0.08;
                metrics.push(Metrics::Validation(ValidationMetrics {
                    step,
                    tokens,
                    validation_loss,
                    seconds: 1.0,
                }));
            }
        }
        metrics
    }

    #[test]
    fn the_picture_says_what_it_shows() {
        let dir = tempfile::tempdir().unwrap();
        let svg = dir.path().join("loss.svg");
        plot_loss(&run(400), "tiny <llama>", Picture::Svg, &svg).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for word in [
            "tiny &lt;llama&gt;",
            "step (16,384 tokens each)",
            "loss (nats per token)",
            "training, mean",
            "validation",
        ] {
            assert!(text.contains(word), "{word} is not in the picture");
        }
    }

    #[test]
    fn a_png_has_letters_without_any_font_of_the_system() {
        let dir = std::env::var_os("PUNA_KEEP_PICTURES").map(std::path::PathBuf::from);
        let scratch = tempfile::tempdir().unwrap();
        let dir = dir.unwrap_or_else(|| scratch.path().to_path_buf());
        let png = dir.join("loss.png");
        plot_loss(&run(2000), "llama-15m on wikitext", Picture::Png, &png).unwrap();
        plot_loss(&run(2000), "llama-15m on wikitext", Picture::Svg, &dir.join("loss.svg"))
            .unwrap();
        let file = std::fs::File::open(&png).unwrap();
        let mut reader = ::png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (1920, 1080));
        // Where the title stands there is ink.
        let row = |y: usize| &pixels[y * 1920 * 3..(y * 1920 + 600) * 3];
        assert!((36..76).flat_map(row).any(|&value| value < 80));
    }

    #[test]
    fn one_step_alone_and_equal_losses_can_be_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.png");
        for loss in [0.0, 2.5] {
            let one = StepMetrics { step: 1, loss, ..StepMetrics::default() };
            plot_loss(&[Metrics::Step(one)], "one", Picture::Png, &path).unwrap();
        }
        let error = plot_loss(&[], "none", Picture::Png, &path).unwrap_err();
        assert_eq!(error.to_string(), "no step has a finite loss: there is no curve to draw");
    }
}
