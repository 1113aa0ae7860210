module github.com/holdfast-edge/holdfast/scripts/tools/sbom

go 1.26
