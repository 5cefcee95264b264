"""The whole path on phantoms: DICOM and RTSTRUCT files in, a scored prediction and a picture out."""
