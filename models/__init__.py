"""The science: networks, preprocessing, training. Sees arrays; knows neither DICOM nor SQL."""
