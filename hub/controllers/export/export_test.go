package export

// The pure functions, for the tests beside this file.
var (
	PlanService = planService
	PlanGateway = planGateway
	Count       = count
)
