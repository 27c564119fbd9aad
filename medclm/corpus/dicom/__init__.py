"""DICOM files: headers to facts, pixels to pictures, segmentations and structure sets to masks. Knows no source and no option of one."""
