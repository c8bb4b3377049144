package translate

// Within is Translate with another limit.
var Within = within
