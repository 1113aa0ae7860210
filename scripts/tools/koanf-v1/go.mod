// An empty module in the place of koanf v1, which Dapr lists and nobody here
// imports: in a workspace its packages would be ambiguous with koanf v2's.
module github.com/knadh/koanf

go 1.26
