package probe

// HealthRequest and HealthResponse are how gRPC health checks are written and read.
var (
	HealthRequest  = healthRequest
	HealthResponse = healthResponse
)
