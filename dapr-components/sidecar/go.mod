module github.com/holdfast-edge/holdfast/dapr-components/sidecar

go 1.26
