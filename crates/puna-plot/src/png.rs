//! Pixels as a PNG file.

use std::path::Path;

use puna_io::AtomicFile;

use crate::error::PlotError;

/// Writes rows of red, green and blue bytes, `size` being width and height.
pub(crate) fn write(path: &Path, pixels: &[u8], size: (u32, u32)) -> Result<(), PlotError> {
    let mut file = AtomicFile::create(path)?;
    let mut encoder = png::Encoder::new(&mut file, size.0, size.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(pixels)?;
        writer.finish()
    });
    written.map_err(|error| match error {
        png::EncodingError::IoError(source) => {
            PlotError::Write { path: path.to_path_buf(), source }
        }
        other => PlotError::Draw { path: path.to_path_buf(), reason: other.to_string() },
    })?;
    Ok(file.commit()?)
}
