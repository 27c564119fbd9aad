"""Volumes: files to voxels in patient axes, voxels to slices, label maps to lesions. Knows no source and no option of one."""
